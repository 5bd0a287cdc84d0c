"""The TF.js form: converted, written, checked, and used as its card says."""

import base64
import functools
import hashlib
import http.server
import json
import re
import shutil
import threading

import numpy as np
from playwright import sync_api
import pytest
import tensorflow as tf

from checks import report
from checks import subject as subject_lib
from checks import suite
from checks.forms import tfjs as tfjs_checks
from checks.forms import tfjs_model
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import hub_module
from hub_export import saved_model
from hub_export.forms import extras
from hub_export.forms import frozen
from hub_export.forms import making
from hub_export.forms import tfjs as form
from hub_export.regnet import inference as network_lib
from hub_export.regnet import reference
from model_cards import render
from model_cards import validate
from tests import forms_test
from tests import random_networks
from tests import tiny_inference

_MEAN, _STD = tiny_inference.MEAN, tiny_inference.STD
# float32 against float64, in few layers.
_TOLERANCE = 1e-5
_SPLIT = hub_module.Build(groups="split", keeps_images=True)
_SCRIPT = re.compile(
    r'<script src="(https://[^"]+/npm/(@tensorflow/[\w-]+)@([\d.]+)/([^"]+))" '
    r'integrity="sha384-([^"]+)" crossorigin="anonymous"></script>\n')


@pytest.fixture(name="exports", scope="module")
def _exports(tmp_path_factory):
  """Both modules, written; name -> directory."""
  output_dir = tmp_path_factory.mktemp("tfjs")
  payloads = making.payloads(
      [tiny_inference.make(kind) for kind in tiny_inference.NAMES], "tfjs",
      None)
  return {p.name: saved_model.write(p, output_dir, "local").export_dir
          for p in payloads}


@pytest.fixture(name="classifier")
def _classifier(exports):
  return exports["tiny_classification_tfjs"]


def _files(arch, build=_SPLIT):
  weights = tiny_inference.tensors(arch)
  net = network_lib.Network(arch, weights, _MEAN, _STD, build)
  return weights, form.convert(
      frozen.function(tiny_inference.make(), net), {"key": "värde"})


def _written(directory, files):
  for name, content in files.items():
    (directory / name).write_bytes(content)
  return directory


@pytest.mark.parametrize("keeps_images", [True, False])
@pytest.mark.parametrize("convention", ["keras", "torch", "regnety"])
def test_as_the_reference(convention, keeps_images, tmp_path):
  arch = tiny_inference.architecture(convention, convention != "torch")
  weights, files = _files(
      arch, hub_module.Build(groups="split", keeps_images=keeps_images))
  with tfjs_model.Session(_written(tmp_path, files)) as session:
    assert session.about["backend"] == "wasm"
    assert session.about["metadata"] == {"key": "värde"}
    # One model takes all batches and sizes.
    for batch, height, width in [(1, 39, 48), (3, 64, 33), (8, 32, 32)]:
      images = tiny_inference.images(batch, height, width)
      _, expected = reference.outputs(weights, convention, _MEAN, _STD, images)
      assert random_networks.difference(
          session.run(images), expected) < _TOLERANCE


def test_bias_and_activation_are_inside():
  graph = json.loads(_files(tiny_inference.architecture())[1][form.MODEL])
  kinds = [node["op"] for node in graph["modelTopology"]["node"]]
  assert not {"BiasAdd", "Identity", "FusedBatchNormV3"} & {*kinds}
  # By hand: five blocks in 1, 2, 2, 3 and 3 groups.
  assert kinds.count("_FusedConv2D") == (
      1 + 5 * 4 + 4            # stem; a, c and the gate's two; shortcuts
      + 1 + 2 + 2 + 3 + 3)
  assert kinds.count("ConcatV2") == 4
  # The last after the addition.
  assert kinds.count("Relu") == 5


def test_same_bytes_again():
  arch = tiny_inference.architecture()
  assert _files(arch)[1] == _files(arch)[1]


def test_grouped_convolutions_are_refused():
  with pytest.raises(errors.HubExportError) as e:
    _files(tiny_inference.architecture(), hub_module.Build())
  assert "which has 3 groups" in str(e.value)


def test_images_that_are_concatenated_get_the_whole_bias():
  """As if they were channels, each part of the bias would go to one of them."""
  kernel = np.ones([1, 1, 3, 4], np.float32)
  bias = np.float32([1, 2, 3, 4])

  @tf.function(input_signature=[
      tf.TensorSpec([None, 4, 4, 3], tf.float32, name="images")],
               autograph=False)
  def run(images):
    parts = [tf.nn.conv2d(images * n, kernel, 1, "SAME") for n in (1., 2.)]
    return {"logits": tf.nn.bias_add(tf.concat(parts, axis=0), bias)}

  graph = json.loads(form.convert(run.get_concrete_function(), {})[form.MODEL])
  kinds = [node["op"] for node in graph["modelTopology"]["node"]]
  assert kinds[-2:] == ["Const", "BiasAdd"] and "_FusedConv2D" not in kinds


def test_unknown_operations_are_refused():
  @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], name="images")])
  def run(images):
    return {"logits": tf.math.lgamma(images)}

  with pytest.raises(errors.HubExportError, match="1 of Lgamma"):
    form.convert(run.get_concrete_function(), {})


def test_weights_are_cut_into_shards(monkeypatch, tmp_path):
  monkeypatch.setattr(form, "_SHARD_BYTES", 5000)
  arch = tiny_inference.architecture()
  weights, files = _files(arch)
  sizes = [len(files[name]) for name in files if name != form.MODEL]
  assert len(sizes) > 2 and {*sizes[:-1]} == {5000} and 0 < sizes[-1] <= 5000
  with tfjs_model.Session(_written(tmp_path, files), "cpu") as session:
    images = tiny_inference.images()
    _, expected = reference.outputs(weights, "keras", _MEAN, _STD, images)
    assert random_networks.difference(
        session.run(images), expected) < _TOLERANCE


def test_it_is_not_taken_for_the_form_that_can_be_fine_tuned(tmp_path):
  forms_test.check_names(forms.by_name("tfjs"), tmp_path)


def test_the_gate_asks_for_what_the_suite_runs():
  forms_test.check_gate(forms.by_name("tfjs"))


def test_checks_pass_and_the_card_is_sound(exports):
  for export_dir in exports.values():
    made = suite.run(export_dir, quick=True)
    wrong = [c for c in made.checks if c.status == report.FAILED]
    assert not wrong
    passed = {c.name for c in made.checks if c.status == report.PASSED}
    assert {"graph", "metadata", "golden", "javascript", "card"} <= passed
    card = export_dirs.card_path(export_dir).read_text("utf-8")
    assert "KerasLayer" not in card and "image_bytes" not in card
    assert "hub.load" not in card
    assert "//checks:check_forms -- " in card


def test_its_card_is_a_page_of_tensorflow_hub_s_for_tfjs(classifier, tmp_path):
  export_dir = tmp_path / "local" / classifier.parent.name / "1"
  shutil.copytree(classifier, export_dir)
  manifest = export_dirs.read_manifest(export_dir)
  # Of the main form's versions, the second is of other weights.
  for version, weights in ((1, manifest["weights"]), (2, {"sha256": "0"})):
    path = (export_dir.parents[1] / "tiny_classification" / str(version)
            / export_dirs.MANIFEST)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest | {"form": "main", "weights": weights}))
  card = render.card_of(export_dir, manifest, None)
  assert card.startswith("# Tfjs local/tiny_classification_tfjs/1\n")
  # What that kind of page has, and no more.
  assert re.findall("<!-- (.*) -->", card) == [
      "asset-path: local/tiny_classification_tfjs/1.tar.gz",
      "parent-model: local/tiny_classification/1"]
  page = export_dirs.card_path(export_dir)
  assert validate.problems(card, manifest, None, page) == []
  for old, new, words in (
      ("tiny_classification/1", "tiny_classification/2", "another checkpoint"),
      ("tiny_classification/1", "other/1", "parent-model"),
      ("_tfjs/1.tar.gz", "_tfjs/2.tar.gz", "asset-path"),
      ("# Tfjs", "# Lite", "the kind of page is 'Lite'")):
    found = validate.problems(card.replace(old, new), manifest, None, page)
    assert any(words in problem for problem in found), old


def _damaged(classifier, directory, change):
  """Returns the subject of a changed copy."""
  shutil.copytree(classifier, directory)
  change(directory)
  return subject_lib.Subject(
      directory, export_dirs.read_manifest(classifier), "digits", "test", None,
      8)


def _rewrite(directory, old, new):
  path = directory / form.MODEL
  text = path.read_text("utf-8")
  assert old in text
  path.write_text(text.replace(old, new), "utf-8")


def _other_weight(directory):
  path, = directory.glob("*.bin")
  values = np.frombuffer(path.read_bytes(), np.float32).copy()
  values[values.size // 2:] *= 1.1
  path.write_bytes(values.tobytes())


def _last_bit_of_a_weight(directory):
  path, = directory.glob("*.bin")
  content = bytearray(path.read_bytes())
  content[len(content) // 8 * 4] ^= 1
  path.write_bytes(content)


def _one_more_shard(directory):
  (directory / "group1-shard2of2.bin").write_bytes(b"1234")


@pytest.mark.parametrize("name,change,words", [
    ("golden", _other_weight, "golden outputs differ"),
    ("hashes", _last_bit_of_a_weight,
     "group1-shard1of1.bin is not as it was exported"),
    ("hashes", _one_more_shard, "group1-shard2of2.bin was not exported"),
    ("metadata", lambda d: _rewrite(d, '"cat"', '"cow"'), "labels is 'cow"),
    ("constants", lambda d: _rewrite(d, '"weights":[{', '"weights":[{'
                                     '"dtype":"float32","name":"more",'
                                     '"shape":[0]},{'),
     "the weight more is of no constant"),
    ("graph", _one_more_shard, "names the shards"),
])
def test_checks_find_what_is_wrong(classifier, tmp_path, name, change, words):
  check, = [c for c in tfjs_checks.CHECKS if c.name == name]
  sound = _damaged(classifier, tmp_path / "sound", lambda d: None)
  assert check.function(sound).status == report.PASSED
  result = check.function(_damaged(classifier, tmp_path / "wrong", change))
  assert result.status == report.FAILED
  assert words in result.message


def test_what_does_not_load_is_told_once(classifier, tmp_path):
  export_dir = tmp_path.joinpath(*classifier.parts[-3:])
  shutil.copytree(classifier, export_dir)
  _shard(export_dir).unlink()
  made = suite.run(export_dir)
  told = [f"{c.group}/{c.name}" for c in made.checks
          if "export it again" in c.message.lower()]
  assert told == ["structure/graph"]
  unloaded = [c for c in made.checks if "structure/graph says why" in c.message]
  assert {c.status for c in unloaded} == {report.NOT_RUN}
  assert {"golden", "javascript", "constants", "top1"} <= {
      c.name for c in unloaded}
  assert made.status == report.FAILED


def _shard(directory):
  path, = directory.glob("*.bin")
  return path


@pytest.mark.parametrize("change,words", [
    (lambda d: (d / form.MODEL).write_text("{}"), "cannot be read .KeyError"),
    (lambda d: (d / form.MODEL).write_text("no JSON"), "cannot be read"),
    (lambda d: (d / form.MODEL).unlink(), "cannot be read .FileNotFoundError"),
    (lambda d: _shard(d).unlink(), "has no group1-shard1of1.bin; expected"),
    (lambda d: _shard(d).write_bytes(_shard(d).read_bytes()[:-4]),
     "bytes; expected the"),
    (lambda d: _shard(d).write_bytes(_shard(d).read_bytes() + b"1234"),
     "bytes; expected the"),
    (lambda d: _rewrite(d, '"versions":{"producer":1}', '"versions":null'),
     "TensorFlow.js failed"),
])
def test_what_cannot_be_loaded_is_told_in_one_message(classifier, tmp_path,
                                                      change, words):
  subject = _damaged(classifier, tmp_path / "wrong", change)
  with pytest.raises(errors.ChecksError, match=words):
    _ = subject.model


def test_what_no_graph_can_hold_is_refused(monkeypatch):
  monkeypatch.setattr(frozen, "_MOST_BYTES", 1000)
  with pytest.raises(errors.HubExportError, match="a graph can hold 1,000"):
    next(making.payloads([tiny_inference.make()], "tfjs", None))


def test_images_of_a_wrong_shape_are_told_and_the_next_ones_run(classifier):
  with tfjs_model.Session(classifier, "cpu") as session:
    with pytest.raises(errors.ChecksError, match="TensorFlow.js failed"):
      session.run(np.zeros([1, 32, 32, 4], np.float32))
    assert session.run(tiny_inference.images(3)).shape == (3, 7)


class _Quiet(http.server.SimpleHTTPRequestHandler):

  def log_message(self, *args):
    pass


def test_card_s_snippet_runs_in_a_browser(classifier):
  suite.run(classifier, quick=True)
  card = export_dirs.card_path(classifier).read_text("utf-8")
  snippet, = re.findall(r"```html\n(.*?)```", card, re.S)
  scripts = _scripts(snippet)
  # A grey square of the size that the model is fed: scaling changes nothing.
  size = tiny_inference.SIZE_PX
  page = ('<body><svg></svg><img src="data:image/svg+xml,'
          f"%3Csvg xmlns='http://www.w3.org/2000/svg' width='{size}' "
          f"height='{size}'%3E%3Crect width='100%25' height='100%25' "
          f"fill='rgb(51,102,204)'/%3E%3C/svg%3E\">{snippet}</body>")
  images = np.tile(np.float32([51, 102, 204]) / 255, (1, size, size, 1))
  arch = tiny_inference.architecture()
  _, expected = reference.outputs(tiny_inference.tensors(arch), "keras", _MEAN,
                                  _STD, images)
  server = http.server.ThreadingHTTPServer(
      ("localhost", 0), functools.partial(_Quiet, directory=str(classifier)))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  path = shutil.which("chromium") or shutil.which("google-chrome")
  assert path, "no browser; expected chromium on the PATH"
  try:
    with sync_api.sync_playwright() as playwright:
      browser = playwright.chromium.launch(
          executable_path=path, args=["--no-sandbox"])
      tab = browser.new_page()
      wrong = []
      tab.on("pageerror", lambda error: wrong.append(str(error)))
      url = f"http://localhost:{server.server_address[1]}/"
      tab.route(re.compile("^https:"), lambda r: r.fulfill(
          body=scripts[r.request.url], content_type="text/javascript",
          headers={"Access-Control-Allow-Origin": "*"}))
      tab.route(url, lambda r: r.fulfill(body=page, content_type="text/html"))

      def load():
        tab.goto(url)
        for _ in range(600):
          label = tab.evaluate("() => document.body.dataset.label")
          if label or wrong:
            return label
          tab.wait_for_timeout(100)

      label, faults = load(), [*wrong]
      # Others than those of the lock are not run.
      for address in scripts:
        scripts[address] += b"\n"
      assert load() is None and wrong == ["tf is not defined"]
      browser.close()
  finally:
    server.shutdown()
    server.server_close()
  assert not faults and label == tiny_inference.LABELS[expected.argmax()]


def _scripts(snippet):
  """Returns what the addresses of a snippet lead to, from the lock's packages.

  Their versions and hashes have to be those of the snippet.
  """
  modules = extras.node().modules
  found = {}
  for address, package, version, file, sha384 in _SCRIPT.findall(snippet):
    about = json.loads(
        (modules / package / "package.json").read_text("utf-8"))
    assert version == about["version"]
    found[address] = (modules / package / file).read_bytes()
    assert sha384 == base64.b64encode(
        hashlib.sha384(found[address]).digest()).decode(), (
            f"{file} has another hash; model_cards/templates/parts/tfjs/"
            "use.md.j2 says how to renew it")
  assert len(found) == snippet.count("src=") == snippet.count("https:") > 1
  return found
