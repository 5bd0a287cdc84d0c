"""The Lite form: made, written, loaded again and checked."""

import dataclasses
import json
import types

import numpy as np
import PIL.Image
import pytest

from checks import numerics
from checks import structure
from checks import subject as subject_lib
from checks.forms import lite as lite_checks
from checks.forms import lite_model
from checks.forms import loading
from checks.forms import siblings
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import saved_model
from hub_export.forms import lite
from hub_export.forms import lite_metadata
from hub_export.forms import making
from hub_export.forms import tflite_file
from model_cards import hub_rules
from model_cards import render
from model_cards import validate
from tests import tiny_inference

EVERY = [(kind, quantization) for quantization in lite.QUANTIZATIONS
         for kind in ("classifier", "feature_extractor")]
STRUCTURE = [c for c in lite_checks.CHECKS
             if c.group in ("structure", "numerics", "trainability") and c.name != "manifest"]


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
  """Returns every kind and quantization, written once: (kind, q) -> path."""
  root = tmp_path_factory.mktemp("lite")
  pictures = root / "pictures"
  pictures.mkdir()
  for i in range(20):
    pixels = tiny_inference.images(1, 40, 44, seed=i)[0] * 255
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(pictures / f"{i}.png")
  found = {}
  for kind, quantization in EVERY:
    payload, = making.payloads(
        [tiny_inference.make(kind)], "lite",
        forms.chosen("lite", {"quantization": quantization}),
        forms.Calibration(pictures, 20))
    found[kind, quantization] = saved_model.write(
        payload, root / "exports", "local").export_dir
  return found


def subject(export_dir, **changes):
  manifest = export_dirs.read_manifest(export_dir)
  return subject_lib.Subject(
      export_dir, {**manifest, **changes}, "pets", "test", None, 8)


@pytest.mark.parametrize("kind,quantization", EVERY)
def test_checks_pass(exports, kind, quantization):
  checked = subject(exports[kind, quantization])
  for check in STRUCTURE:
    if kind in check.kinds:
      result = check.function(checked)
      assert result.status == "passed", f"{check.name}: {result.message}"


@pytest.mark.parametrize("quantization", lite.QUANTIZATIONS)
def test_outputs_are_the_references(exports, quantization):
  # In standard deviations, by what each rounds; the reference is NumPy's.
  most = {"float32": 1e-5, "fp16": 5e-3, "dynamic": 0.05, "int8": 0.6}
  inference = tiny_inference.make()
  model = loading.load(exports["classifier", quantization],
                       {"form": "lite", "kind": "classifier"})
  off = subject_lib.difference(model(inference.golden_images),
                               inference.golden_outputs)
  assert off < most[quantization]
  # A network that takes BGR for RGB is another one.
  wrong = subject_lib.difference(model(inference.golden_images[..., ::-1]),
                                 inference.golden_outputs)
  assert wrong > 2 * off


def test_files_are_as_small_as_promised(exports):
  sizes = {q: (exports["classifier", q] / lite.FILE).stat().st_size
           for q in lite.QUANTIZATIONS}
  assert sizes["int8"] < sizes["fp16"] < sizes["float32"]


def test_the_last_layer_is_the_checkpoints(exports):
  weights = tiny_inference.tensors(tiny_inference.architecture())
  for quantization, most in (("float32", 1e-7), ("fp16", 1e-3), ("int8", 0.01)):
    content = (exports["classifier", quantization] / lite.FILE).read_bytes()
    kernel, bias = lite_model.last_layer(content)
    assert np.abs(kernel - weights["head/kernel"]).max() < most
    assert np.abs(bias - weights["head/bias"]).max() < most
  content = (exports["feature_extractor", "float32"] / lite.FILE).read_bytes()
  with pytest.raises(errors.HubExportError, match="ends in MEAN"):
    lite_model.last_layer(content)


def test_the_same_checkpoint_gives_the_same_bytes(exports, tmp_path):
  for quantization in ("float32", "dynamic"):
    payload, = making.payloads(
        [tiny_inference.make()], "lite",
        forms.chosen("lite", {"quantization": quantization}))
    payload.write(tmp_path)
    assert (tmp_path / lite.FILE).read_bytes() == (
        exports["classifier", quantization] / lite.FILE).read_bytes()


def test_bytes_go_in_as_they_are(exports):
  path = exports["classifier", "int8"] / lite.FILE
  run = tflite_file.interpreter().Interpreter(
      str(path)).get_signature_runner("serving_default")
  pixels = np.round(tiny_inference.images(1, 32, 32) * 255).astype(np.uint8)
  found = run(images=pixels)["logits"]
  model = lite_model.load(path.parent, {"kind": "classifier"})
  assert np.array_equal(found, model(pixels / np.float32(255)))


def test_pixels_out_of_range_are_cut_off(exports):
  # As resizing may overshoot; 256 would otherwise be black.
  model = loading.load(exports["classifier", "int8"],
                       {"form": "lite", "kind": "classifier"})
  images = tiny_inference.images(1, 32, 32)
  images[0, 0, :2] = [[1.004] * 3, [-0.004] * 3]
  assert np.array_equal(model(images), model(np.clip(images, 0, 1)))


def test_a_network_that_is_too_large_is_refused():
  class Large:
    num_bytes = 3 << 30
  inference = dataclasses.replace(tiny_inference.make(),
                                  network=lambda build: Large())
  with pytest.raises(errors.HubExportError, match="a smaller network"):
    list(making.payloads([inference], "lite", forms.chosen("lite", {})))


def damaged(exports, tmp_path, change, quantization="float32"):
  """Returns a subject whose model file went through `change`."""
  export_dir = exports["classifier", quantization]
  copy = tmp_path.joinpath(*export_dir.parts[-3:])
  for path in export_dirs.files(export_dir):
    target = copy / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((export_dir / path).read_bytes())
  (copy / lite.FILE).write_bytes(change((copy / lite.FILE).read_bytes()))
  return subject(copy)


def swapped_labels(content):
  files = lite_metadata.read_files(content)
  swapped = files["labels.txt"].replace(b"cat\ndog\n", b"dog\ncat\n")
  model = content[:content.index(b"PK\3\4")]
  return lite_metadata.append_files(model, {"labels.txt": swapped})


def without_labels(content):
  return content[:content.index(b"PK\3\4")]


def cut_short(content):
  return content[:len(content) // 2]


def without_its_sign(content):
  model = tflite_file.load(content)
  *_, (_, kernel) = tflite_file.kernels(model)
  data = model.buffers[kernel.buffer].data.view(np.float32)
  model.buffers[kernel.buffer].data = np.abs(data).view(np.uint8)
  return tflite_file.dump(model)


def without_metadata(content):
  model = tflite_file.load(content)
  model.metadata = []
  return tflite_file.dump(model)


def with_half_of_the_metadata(content):
  model = tflite_file.load(content)
  entry, = (m for m in model.metadata
            if m.name == lite_metadata.BUFFER.encode())
  record = lite_metadata.decode(tflite_file.metadata(model))
  del record["subgraph_metadata"][0]["output_tensor_metadata"]
  model.buffers[entry.buffer].data = np.frombuffer(
      lite_metadata.encode(record), np.uint8)
  return tflite_file.dump(model)


def renamed(content):
  model = tflite_file.load(content)
  model.signatureDefs[0].outputs[0].name = "scores"
  return tflite_file.dump(model)


def one_scale(content):
  model = tflite_file.load(content)
  for _, kernel in tflite_file.kernels(model):
    kernel.quantization.scale = kernel.quantization.scale[:1]
  return tflite_file.dump(model)


def fixed_batch(content):
  model = tflite_file.load(content)
  model.subgraphs[0].tensors[0].shapeSignature = None
  return tflite_file.dump(model)


def with_a_variable(content):
  model = tflite_file.load(content)
  model.subgraphs[0].tensors[1].isVariable = True
  return tflite_file.dump(model)


@pytest.mark.parametrize("change,check,words", [
    (with_a_variable, lite_checks.constant, "is a variable"),
    (swapped_labels, lite_checks.metadata, "same order"),
    (without_labels, lite_checks.metadata, "files inside are [], expected"),
    (cut_short, structure.hashes, "model.tflite is not as it was exported"),
    (cut_short, lite_checks.signature, "LiteRT cannot load"),
    (without_its_sign, numerics.golden, "golden outputs differ"),
    (without_metadata, lite_checks.metadata, "no metadata"),
    (with_half_of_the_metadata, lite_checks.metadata,
     "is not whole (KeyError: 'output_tensor_metadata'); expected"),
    (renamed, lite_checks.signature, "scores"),
    (fixed_batch, lite_checks.signature, "shape_signature"),
    (without_metadata, structure.hashes, "Export the checkpoint again"),
    (lambda content: content + b"\0" * 500_000, lite_checks.size, "at most"),
])
def test_faults_are_found(exports, tmp_path, change, check, words):
  try:
    result = check(damaged(exports, tmp_path, change))
    assert result.status == "failed"
    message = result.message
  except errors.HubExportError as e:  # The suite makes a failure of it.
    message = str(e)
  assert words in message


@pytest.mark.parametrize("quantization,said,words", [
    ("float32", "fp16", "is FLOAT32, expected FLOAT16"),
    ("fp16", "dynamic", "is FLOAT16, expected INT8"),
    ("dynamic", "float32", "is INT8, expected FLOAT32")])
def test_kernels_kept_otherwise_are_found(exports, quantization, said, words):
  checked = subject(exports["classifier", quantization], quantization=said)
  result = lite_checks.weights(checked)
  assert result.status == "failed" and words in result.message


def test_kernels_scaled_as_a_whole_are_found(exports, tmp_path):
  # LiteRT itself refuses to load some such, so that nothing is loaded here.
  checked = subject(exports["classifier", "int8"])
  content = one_scale(checked.model.content)
  checked.__dict__["model"] = types.SimpleNamespace(content=content)
  result = lite_checks.weights(checked)
  assert result.status == "failed" and "has 1 scales" in result.message


@pytest.mark.parametrize("seed,status", [(0, "passed"), (1, "failed")])
def test_outputs_are_held_against_a_saved_model_beside_it(
    exports, tmp_path, seed, status):
  payload, = making.payloads([tiny_inference.make(seed=seed)], "serving",
                             forms.chosen("serving", {}))
  saved_model.write(payload, tmp_path, "local")
  checked = damaged(exports, tmp_path, lambda content: content,
                    "int8")
  result = siblings.saved_model(checked, tiny_inference.images(4, 32, 32, 9))
  assert result.status == status, result.message
  assert "tiny_classification_serving_float32/1" in result.message


def test_operators_outside_of_xnnpack_are_found(exports):
  checked = subject(exports["classifier", "int8"])
  assert lite_checks.operators(checked).status == "passed"
  # What int8 may leave out, nothing else may.
  checked.manifest = {**checked.manifest, "quantization": "float32"}
  result = lite_checks.operators(checked)
  assert result.status == "failed" and "QUANTIZE" in result.message


def test_calibration_on_what_is_evaluated_is_found(exports):
  checked = subject(exports["classifier", "int8"])
  record = checked.manifest["lite"]
  calibrated = {**record["calibration"], "source": "pets/test"}
  checked.manifest = {**checked.manifest, "lite": {
      **record, "calibration": calibrated}}
  assert lite_checks.calibration(checked).status == "failed"
  checked.manifest = {**checked.manifest, "lite": {
      **record, "calibration": None}}
  assert lite_checks.calibration(checked).status == "failed"


@pytest.mark.parametrize("kind,quantization", [
    ("classifier", "int8"), ("feature_extractor", "fp16")])
def test_cards_are_sound_and_their_python_runs(
    exports, kind, quantization, tmp_path, monkeypatch, capsys):
  export_dir = exports[kind, quantization]
  manifest = export_dirs.read_manifest(export_dir)
  card = render.module_card(manifest, None)
  assert validate.problems(card, manifest) == []
  handle = manifest["handle"]
  lines = card.split("\n")
  assert lines[0] == f"# Lite {handle}"
  assert f"<!-- asset-path: {handle}/model.tflite -->" in lines
  sha256 = export_dirs.file_sha256(export_dir / lite.FILE)
  assert sha256 in card
  # Held against the manifest, not only against the form.
  assert hub_rules.read(card)[1] == []
  wrong = card.replace(sha256, "0" * 63 + "1")
  assert any("SHA-256" in f for f in validate.problems(wrong, manifest))
  for old, new in (("local/", "other/"), ("/1 -->", " -->")):
    wrong = "\n".join(line.replace(old, new) if "parent-model" in line else line
                      for line in lines)
    assert wrong != card
    assert any("parent-model" in f for f in validate.problems(wrong, manifest))

  monkeypatch.chdir(tmp_path)
  PIL.Image.new("RGB", (50, 40), (200, 30, 90)).save("image.jpg")
  blocks = card.split("```python\n")[1:]
  code = "\n".join(block.split("```")[0] for block in blocks)
  space = {}
  root = export_dir.parents[2]
  exec(code.replace("PATH/", f"{root}/"), space)  # pylint: disable=exec-used
  if kind == "classifier":
    assert space["labels"] == list(tiny_inference.LABELS)
    assert space["logits"].shape == (1, 7)
    assert capsys.readouterr().out.strip() in tiny_inference.LABELS
  else:
    assert space["features"].shape == (1, 24)


def test_the_parent_is_the_main_form_of_the_same_checkpoint(exports, tmp_path):
  export_dir = damaged(exports, tmp_path, lambda content: content
                       ).export_dir
  manifest = export_dirs.read_manifest(export_dir)
  parent = export_dir.parents[1] / "tiny_classification"

  def put(version, **changes):
    path = parent / str(version) / export_dirs.MANIFEST
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**manifest, **changes}))

  def tag():
    card = render.card_of(export_dir, manifest, None)
    assert validate.problems(card, manifest, None, card_path) == []
    return next(line for line in card.split("\n") if "parent-model" in line)

  card_path = export_dirs.card_path(export_dir)
  assert tag() == "<!-- parent-model: local/tiny_classification/1 -->"
  put(1, weights={"sha256": "others"})
  assert tag() == "<!-- parent-model: local/tiny_classification/2 -->"
  put(2)
  put(3, weights={"sha256": "others"})
  assert tag() == "<!-- parent-model: local/tiny_classification/2 -->"
  wrong = render.module_card(manifest, None, parent_version=3)
  assert any("of another checkpoint" in f for f in validate.problems(
      wrong, manifest, None, card_path))
