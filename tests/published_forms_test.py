"""Every form after its export: published, verified, served and described."""

import asyncio
import json
import pathlib

import pytest

from checks import names
from checks import published_model
from checks import verification
from hub_export import destinations
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import releases
from hub_export import signing_keys
from hub_export import trust
from hub_export.destinations import directory
from hub_export.site import application
from hub_export.site import models
from hub_export.site import static
from model_cards import forms as card_forms
from model_cards import validate
from tests import tiny_export
from tests import tiny_keys

_BASE = "https://models.example.org"
FORMS = tuple(tiny_export.FORMS)
# What is loaded by its address, and what else lies there that way.
_FILES = {"lite": ["model.tflite"], "onnx": ["model.onnx"],
          "tfjs": ["model.json", "group1-shard1of1.bin"]}


def _publish(root: pathlib.Path, export_dir: pathlib.Path) -> None:
  release = releases.read(export_dir)
  directory.Directory(root).put(releases.with_documents(
      release, trust.trusted_documents(export_dir, release.documents)))


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory) -> pathlib.Path:
  base = tmp_path_factory.mktemp("hub")
  _publish(base / "root", tiny_export.make(base / "exports"))
  for form in FORMS:
    _publish(base / "root", tiny_export.make_form(base / "exports", form))
  return base / "root"


def _handle(form: str) -> str:
  return tiny_export.FORMS[form][0]


def _get(root: pathlib.Path, path: str, query: str = ""
         ) -> tuple[int, dict[str, str], bytes]:
  """Returns status, headers and body of the hub's answer."""
  sent = []

  async def send(message):
    sent.append(message)

  async def receive():
    await asyncio.Event().wait()  # Nobody hangs up.

  app = application.app(models.Published(root), lambda line: None, _BASE)
  asyncio.run(app({
      "type": "http", "method": "GET", "path": path, "scheme": "https",
      "query_string": query.encode(), "headers": [], "client": ("c", 1),
      "server": ("h", 443)}, receive, send))
  headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
  return sent[0]["status"], headers, b"".join(
      message.get("body", b"") for message in sent[1:])


def test_every_form_is_here():
  assert [form.name for form in forms.FORMS if not form.is_fine_tunable] == (
      sorted(FORMS, key=[form.name for form in forms.FORMS].index))


@pytest.mark.parametrize("form", FORMS)
def test_signed_published_and_verified(tmp_path, form):
  export_dir = tiny_export.make_form(tmp_path / "exports", form)
  private, public = tiny_keys.write_pair(tmp_path)
  release = releases.read(export_dir)
  release = releases.with_documents(release, trust.trusted_documents(
      export_dir, release.documents, signing_keys.load_signer(private)))
  place = directory.Directory(tmp_path / "root")
  place.put(release)
  place.verify(release)
  assert place.exists(release.handle)
  verifier = signing_keys.load_verifier(public, [], None, False)
  module_dir = tmp_path / "root" / _handle(form)
  asked = published_model.subject(str(module_dir), None, None)
  assert verification.verify(asked, verifier).handle == _handle(form)
  marker = module_dir / forms.by_name(form).marker
  marker.write_bytes(marker.read_bytes()[:-1] + b"?")
  with pytest.raises(errors.ChecksError, match=f"1/{marker.name} differs"):
    verification.verify(asked, verifier)


class TestRefused:
  """Each in one message, before anything is written."""

  def _refusal(self, export_dir: pathlib.Path) -> str:
    with pytest.raises(errors.ChecksError) as caught:
      releases.read(export_dir)
    return str(caught.value)

  @pytest.mark.parametrize("form", FORMS)
  def test_without_its_model(self, tmp_path, form):
    export_dir = tiny_export.make_form(tmp_path, form)
    (export_dir / forms.by_name(form).marker).unlink()
    assert "has changed since it was checked" in self._refusal(export_dir)

  @pytest.mark.parametrize("form", FORMS)
  def test_altered_after_the_check(self, tmp_path, form):
    export_dir = tiny_export.make_form(tmp_path, form)
    with open(export_dir / forms.by_name(form).marker, "ab") as f:
      f.write(b"\0")
    assert "has changed since it was checked" in self._refusal(export_dir)

  @pytest.mark.parametrize("form, name", [
      (form, name) for form in FORMS
      for name in names.EXPECTED[form]["classifier"]
      if name not in names.EXPECTED["main"]["classifier"]])
  def test_without_a_check_of_the_form(self, tmp_path, form, name):
    export_dir = tiny_export.make_form(tmp_path, form)
    report = json.loads(tiny_export.report_path(export_dir).read_text())
    tiny_export.write_report(export_dir, checks=[
        c for c in report["checks"] if f"{c['group']}/{c['name']}" != name] + [
            tiny_export.check(name.partition("/")[0], "other", "passed", "so")])
    assert f"\n  {name}: this check was not made\n" in self._refusal(export_dir)

  @pytest.mark.parametrize("form", FORMS)
  def test_with_the_checks_of_the_main_form(self, tmp_path, form):
    export_dir = tiny_export.make_form(tmp_path, form)
    tiny_export.write_report(export_dir, checks=[
        tiny_export.check(*name.split("/"), "passed", "so")
        for name in names.EXPECTED["main"]["classifier"]])
    assert ": this check was not made\n" in self._refusal(export_dir)

  def test_with_the_report_of_another_form(self, tmp_path):
    export_dir = tiny_export.make_form(tmp_path, "lite")
    other = tiny_export.make_form(tmp_path, "onnx")
    tiny_export.report_path(export_dir).write_bytes(
        tiny_export.report_path(other).read_bytes())
    assert (f"is the report of {_handle('onnx')}; expected one of "
            f"{_handle('lite')}") in self._refusal(export_dir)

  def test_a_main_export_under_the_name_of_a_serving_form(self, tmp_path):
    export_dir = tiny_export.make(tmp_path)
    moved = tmp_path / "local/tiny_classification_serving_float32"
    export_dir.parent.rename(moved)
    found = self._refusal(moved / "1")
    assert "holds local/tiny_classification/1; expected it to lie in" in found
    assert found.count("\n") == 0

  @pytest.mark.parametrize("first", [
      "# Module {}", "# Lite local/tiny_classification_lite_fp16/1"])
  def test_a_lite_form_with_another_page(self, tmp_path, first):
    export_dir = tiny_export.make_form(tmp_path, "lite")
    card = tiny_export.card_path(export_dir)
    _, _, rest = card.read_text().partition("\n")
    card.write_text(f"{first.format(_handle('lite'))}\n{rest}")
    assert f"expected '# Lite {_handle('lite')}'" in self._refusal(export_dir)

  def test_it_is_told_how_to_check_it(self, tmp_path, monkeypatch):
    export_dir = tiny_export.make_form(tmp_path, "onnx")
    tiny_export.report_path(export_dir).unlink()
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    assert "run //checks:check_forms " in self._refusal(export_dir)


class TestHub:

  @pytest.mark.parametrize("form, name", [
      (form, name) for form, found in _FILES.items() for name in found])
  @pytest.mark.parametrize("query", ["", "tfjs-format=file"])
  def test_files_by_their_address(self, root, form, name, query):
    status, headers, body = _get(root, f"/{_handle(form)}/{name}", query)
    assert (status, body) == (200, tiny_export.FORMS[form][1][name])
    assert headers["content-type"] == (
        "application/json" if name == "model.json" else
        "application/octet-stream")
    # Pages of other sites may load them; they never change.
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] == "public, max-age=86400"

  def test_lite_as_on_tensorflow_hub(self, root):
    status, _, body = _get(root, f"/{_handle('lite')}", "lite-format=tflite")
    assert (status, body) == (200, b"TFL3" * 99)

  @pytest.mark.parametrize("form", ["serving", "onnx", "tfjs"])
  def test_what_is_no_lite_form(self, root, form):
    status, _, body = _get(root, f"/{_handle(form)}", "lite-format=tflite")
    assert status == 404 and b"is no Lite model" in body

  @pytest.mark.parametrize("path, query", [
      (_handle("lite"), "lite-format=xnnpack"), ("local", "lite-format=tflite"),
      ("local/none/1", "lite-format=tflite")])
  def test_other_lite_formats(self, root, path, query):
    assert _get(root, f"/{path}", query)[0] == 404

  @pytest.mark.parametrize("path", [
      f"{_handle('serving')}/saved_model.pb", f"{_handle('lite')}/model.onnx",
      "local/tiny_classification/1/saved_model.pb",
      f"{_handle('lite')}/assets.extra/manifest.json",
      f"{_handle('lite')}/assets/labels.txt", f"{_handle('lite')}/..",
      f"{_handle('tfjs')}/../1.md", f"{_handle('tfjs')}/"])
  def test_nothing_else(self, root, path):
    assert _get(root, f"/{path}")[0] == 404

  def test_hub_load_gets_the_archive_of_a_serving_form(self, root):
    status, headers, body = _get(
        root, f"/{_handle('serving')}", "tf-hub-format=compressed")
    assert (status, headers["content-type"]) == (200, "application/gzip")
    assert body == (root / f"{_handle('serving')}.tar.gz").read_bytes()

  def test_altered_files_are_not_sent(self, tmp_path):
    root = tmp_path / "root"
    _publish(root, tiny_export.make_form(tmp_path / "exports", "tfjs"))
    shard = root / _handle("tfjs") / "group1-shard1of1.bin"
    shard.write_bytes(b"weighty" * 99)
    status, headers, body = _get(root, f"/{_handle('tfjs')}/{shard.name}")
    assert status == 503 and "access-control-allow-origin" not in headers
    assert b"group1-shard1of1.bin does not match 1.SHA256SUMS" in body
    assert _get(root, f"/{_handle('tfjs')}/model.json")[0] == 200
    assert b"were altered" in _get(root, f"/{_handle('tfjs')}")[2]
    with pytest.raises(errors.HubExportError, match="/1/group1-shard1of1.bin"):
      static.write(models.Published(root), tmp_path / "site", _BASE)

  @pytest.mark.parametrize("form", FORMS)
  def test_pages_say_what_can_be_done_with_it(self, root, form):
    page = _get(root, f"/{_handle(form)}")[2].decode()
    assert "trainable=True" not in page and "Fine-tune it" not in page
    assert f'<span class="badge">{form}</span>' in page
    assert ("hub.load(" in page) == (form == "serving")
    for name in _FILES.get(form, ()):
      assert f'href="1/{name}"' in page
    assert {"serving": f"hub.load(&#34;{_BASE}/{_handle(form)}&#34;)",
            "lite": f"curl -fO {_BASE}/{_handle(form)}/model.tflite",
            "onnx": f"curl -fO {_BASE}/{_handle(form)}/model.onnx",
            "tfjs": f"loadGraphModel(&#34;{_BASE}/{_handle(form)}/model.json"
           }[form] in page

  @pytest.mark.parametrize("form", FORMS)
  def test_json_has_their_addresses(self, root, form):
    found = json.loads(_get(root, f"/api/v1/models/{_handle(form)}.json")[2])
    url = f"{_BASE}/{_handle(form)}"
    files = _FILES.get(form, [])
    assert found["load_url"] == (f"{url}/{files[0]}" if files else url)
    assert {f["url"] for f in found["files"]} >= {f"{url}/{f}" for f in files}

  def test_as_files(self, root, tmp_path):
    static.write(models.Published(root), tmp_path / "site", _BASE)
    for form, (handle, files, _) in tiny_export.FORMS.items():
      found = tiny_export.tree(tmp_path / "site" / handle) if (
          form in _FILES) else {}
      assert found == {name: files[name] for name in _FILES.get(form, ())}
      assert (tmp_path / "site" / handle).exists() == (form in _FILES)


class TestNextSteps:

  @pytest.mark.parametrize("to, url", [
      ("published", "http://localhost:8080/a/b/1"),
      ("gs://bucket/x", "https://storage.googleapis.com/bucket/x/a/b/1"),
      ("s3://bucket/x", "https://bucket.s3.amazonaws.com/x/a/b/1"),
      ("hf://lab/x", "https://huggingface.co/lab/x/resolve/main/1")])
  def test_each_form_by_what_loads_it(self, monkeypatch, to, url):
    for name in ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL", "HF_ENDPOINT",
                 "AWS_ENDPOINT_URL_S3"):
      monkeypatch.delenv(name, raising=False)
    handle = export_dirs.Handle("a", "b", 1)
    for form, line in {
        "lite": f"curl -fLO {url}/model.tflite",
        "onnx": f"curl -fLO {url}/model.onnx",
        "tfjs": f'tf.loadGraphModel("{url}/model.json")'}.items():
      steps = "\n".join(destinations.choose(to).next_steps(
          handle, forms.by_name(form)))
      assert line in steps and "hub.load" not in steps
    for form in ("main", "serving"):
      steps = destinations.choose(to).next_steps(handle, forms.by_name(form))
      assert any(f'hub.load("{url}' in step for step in steps)


class TestKaggle:

  @pytest.mark.parametrize("form, framework", [
      ("serving", "tensorFlow2"), ("lite", "tfLite"), ("onnx", "onnx"),
      ("tfjs", "tfJs")])
  def test_each_form_has_its_framework(self, tmp_path, form, framework):
    release = releases.read(tiny_export.make_form(tmp_path, form))
    for other in {"tensorFlow2", "tfLite", "tfJs", "onnx"} - {framework}:
      place = destinations.choose(f"kaggle://lab/tiny/{other.lower()}/x")
      with pytest.raises(errors.UsageError) as caught:
        place.put(release)
      assert f"Publish it to kaggle://lab/tiny/{framework}/x" in str(
          caught.value)
      assert caught.value.args[0].count("\n") == 0
    # Kaggle's client knows it by that name.
    from kagglehub import handle  # pylint: disable=g-import-not-at-top
    found = handle.parse_model_handle(f"lab/tiny/{framework}/x").framework_enum()
    assert found.name == {
        "tensorFlow2": "MODEL_FRAMEWORK_TENSOR_FLOW_2",
        "tfLite": "MODEL_FRAMEWORK_TF_LITE", "onnx": "MODEL_FRAMEWORK_ONNX",
        "tfJs": "MODEL_FRAMEWORK_TF_JS"}[framework]

  def test_other_frameworks(self):
    with pytest.raises(errors.UsageError, match="one of tensorFlow2, onnx, tf"):
      destinations.choose("kaggle://lab/tiny/jax/x")


class TestCards:

  @pytest.mark.parametrize("render", [card_forms.hugging_face,
                                      card_forms.kaggle])
  @pytest.mark.parametrize("form", FORMS)
  def test_of_other_hubs(self, tmp_path, form, render):
    export_dir = tiny_export.make_form(tmp_path, form)
    manifest = export_dirs.read_manifest(export_dir)
    report = json.loads(tiny_export.report_path(export_dir).read_text())
    card = render(manifest, report)
    assert validate.problems(card, manifest, report) == []
    assert "reusable SavedModel" not in card and "KerasLayer(" not in card
    assert ("float32` throughout" in card) == (
        render is card_forms.kaggle and form in ("onnx", "tfjs"))
    assert ("\n- saved-model\n" in card) == (
        render is card_forms.hugging_face and form == "serving")

  @pytest.mark.parametrize("form", FORMS)
  def test_names_what_timed_and_what_checks_it(self, tmp_path, form):
    export_dir = tiny_export.make_form(tmp_path, form)
    tiny_export.write_report(export_dir, latency={
        "median_ms": 4.25, "low_ms": 4.125, "high_ms": 6.5, "calls": 50,
        "image_size_px": 48})
    tiny_export.write_card(export_dir)
    releases.read(export_dir)
    card = tiny_export.card_path(export_dir).read_text()
    runtime = {"serving": "`hub.load`", "lite": "LiteRT",
               "onnx": "ONNX Runtime", "tfjs": "TensorFlow.js"}[form]
    assert f"One image a call, through {runtime}, where" in card
    command = "check_forms" if form in ("onnx", "tfjs") else "check"
    assert f"./bazelw run //checks:{command} -- --export_dir" in card
