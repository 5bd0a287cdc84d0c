"""The ONNX form: converted, written, checked, and used as its card says."""

import json
import re
import types

import numpy as np
import onnx
from onnx import numpy_helper
import onnxruntime
import pytest

from checks import check
from checks import report
from checks import subject as subject_lib
from checks import suite
from checks.forms import onnx as onnx_checks
from checks.forms import siblings
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import hub_module
from hub_export import saved_model
from hub_export.forms import frozen
from hub_export.forms import making
from hub_export.forms import onnx as form
from hub_export.regnet import inference as network_lib
from hub_export.regnet import reference
from tests import forms_test
from tests import random_networks
from tests import tiny_inference

_MEAN, _STD = tiny_inference.MEAN, tiny_inference.STD
# float32 against float64, in few layers.
_TOLERANCE = 1e-5


@pytest.fixture(name="exports", scope="module")
def _exports(tmp_path_factory):
  """Both modules, written and checked; name -> directory."""
  output_dir = tmp_path_factory.mktemp("onnx")
  payloads = making.payloads(
      [tiny_inference.make(kind) for kind in tiny_inference.NAMES], "onnx",
      None)
  return {p.name: saved_model.write(p, output_dir, "local").export_dir
          for p in payloads}


@pytest.fixture(name="classifier")
def _classifier(exports):
  return exports["tiny_classification_onnx"]


def _model(arch, build=hub_module.Build(keeps_images=True)):
  weights = tiny_inference.tensors(arch)
  net = network_lib.Network(arch, weights, _MEAN, _STD, build)
  return weights, form.convert(
      frozen.function(tiny_inference.make(), net), "tiny", {"key": "värde"})


@pytest.mark.parametrize("convention", ["keras", "torch", "regnety"])
def test_as_the_reference(convention):
  arch = tiny_inference.architecture(convention, convention != "torch")
  weights, content = _model(arch)
  session = onnxruntime.InferenceSession(content)
  # One session takes all batches and sizes.
  for batch, height, width in [(1, 39, 48), (3, 64, 33), (8, 32, 32)]:
    images = tiny_inference.images(batch, height, width)
    found, = session.run(["logits"], {"images": images})
    _, expected = reference.outputs(weights, convention, _MEAN, _STD, images)
    assert random_networks.difference(found, expected) < _TOLERANCE


def test_graph_is_one_that_runs_fast():
  model = onnx.load_from_string(_model(tiny_inference.architecture())[1])
  kinds = [node.op_type for node in model.graph.node]
  # The one transposition comes before all else.
  assert kinds[:3] == ["Transpose", "Sub", "Conv"]
  assert kinds.count("Transpose") == 1
  assert not {"BatchNormalization", "Reshape", "ReduceMean", "Split"} & {*kinds}
  # By hand: five blocks of 8, 16, 16, 24 and 24 channels, in groups of 8.
  assert [g for g in form.groups(model) if g > 1] == [2, 2, 3, 3]
  assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
  assert {p.key: p.value for p in model.metadata_props} == {"key": "värde"}
  axes = [d.dim_param or d.dim_value
          for d in model.graph.input[0].type.tensor_type.shape.dim]
  assert axes == ["batch", "height", "width", 3]


def test_same_bytes_again():
  arch = tiny_inference.architecture()
  assert _model(arch)[1] == _model(arch)[1]


def test_transpositions_between_layers_are_refused():
  with pytest.raises(errors.HubExportError, match="transpositions, expected 1"):
    _model(tiny_inference.architecture(), hub_module.Build())


def test_it_is_not_taken_for_the_form_that_can_be_fine_tuned(tmp_path):
  forms_test.check_names(forms.by_name("onnx"), tmp_path)


def test_the_gate_asks_for_what_the_suite_runs():
  forms_test.check_gate(forms.by_name("onnx"))


def test_checks_pass_and_the_card_is_sound(exports):
  for export_dir in exports.values():
    made = suite.run(export_dir, quick=True)
    wrong = [c for c in made.checks if c.status == report.FAILED]
    assert not wrong
    passed = {c.name for c in made.checks if c.status == report.PASSED}
    assert {"graph", "metadata", "golden", "batch_sizes", "card"} <= passed
    card = export_dirs.card_path(export_dir).read_text("utf-8")
    assert "<!-- format: onnx -->" in card
    assert "<!-- fine-tunable: false -->" in card
    assert "KerasLayer" not in card and "image_bytes" not in card
    assert "hub.load" not in card
    assert export_dirs.file_sha256(export_dir / form.MODEL) in card
    assert "//checks:check_forms -- " in card
    # Nothing on it is loaded from an address.
    assert "PATH_OR_URL" not in card and "for `PATH` the directory" in card


def test_a_quick_check_names_the_program_that_can_do_the_rest(
    classifier, monkeypatch, capsys):
  made = suite.run(classifier, quick=True)
  monkeypatch.setattr(check, "_QUICK", types.SimpleNamespace(value=True))
  monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(classifier.parent))
  assert check._conclude(made, classifier, "onnx") == 0
  assert "./bazelw run //checks:check_forms -- " in capsys.readouterr().out


def test_card_s_snippet_runs(classifier, monkeypatch, capsys):
  suite.run(classifier, quick=True)
  card = export_dirs.card_path(classifier).read_text("utf-8")
  snippet, = re.findall(r"```python\n(.*?InferenceSession.*?)```", card, re.S)
  base = classifier.parents[2]
  names = {"images": tiny_inference.images()}
  exec(snippet.replace('"PATH/', f'"{base}/'), names)  # pylint: disable=exec-used
  with np.load(classifier / export_dirs.GOLDEN) as golden:
    assert random_networks.difference(
        names["logits"], golden["outputs"]) < _TOLERANCE
    best = golden["outputs"].argmax(axis=1)
  assert capsys.readouterr().out.split() == [
      tiny_inference.LABELS[i] for i in best]


def test_what_no_file_can_hold_is_refused(monkeypatch):
  monkeypatch.setattr(frozen, "_MOST_BYTES", 1000)
  with pytest.raises(errors.HubExportError, match="a graph can hold 1,000"):
    next(making.payloads([tiny_inference.make()], "onnx", None))


def test_only_reshapes_that_change_nothing_are_left_out():
  def left(shape, target=(-1, 4)):
    given, made = (onnx.helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, sizes)
                   for name, sizes in (("given", shape), ("made", None)))
    target = numpy_helper.from_array(np.int64(target), "target")
    nodes = [onnx.helper.make_node("Reshape", ["given", "target"], ["between"]),
             onnx.helper.make_node("Relu", ["between"], ["made"])]
    model = onnx.helper.make_model(onnx.helper.make_graph(
        nodes, "graph", [given], [made], [target]))
    form._without_idle_reshapes(model)
    return [node.op_type for node in model.graph.node]

  assert left(["batch", 4]) == ["Relu"]
  for shape in (["batch", 5], ["batch", "width"], ["batch", 2, 2], None):
    assert left(shape) == ["Reshape", "Relu"]
  assert left(None, [-1]) == ["Reshape", "Relu"]


def _damaged(classifier, tmp_path, change):
  """Returns the subject of a copy whose model was changed."""
  model = onnx.load(str(classifier / form.MODEL))
  change(model)
  for path in export_dirs.files(classifier):
    copy = tmp_path / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes((classifier / path).read_bytes())
  (tmp_path / form.MODEL).write_bytes(model.SerializeToString())
  manifest = export_dirs.read_manifest(classifier)
  return subject_lib.Subject(tmp_path, manifest, "digits", "test", None, 8)


def _other_weight(model):
  tensor = next(i for i in model.graph.initializer if len(i.dims) == 4)
  values = numpy_helper.to_array(tensor).copy()
  values[0] *= 1.1
  tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _last_bit_of_a_weight(model):
  tensor = next(i for i in model.graph.initializer if len(i.dims) == 4)
  values = numpy_helper.to_array(tensor).copy()
  values.view(np.uint32)[0, 0, 0, 0] ^= 1
  tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _other_labels(model):
  prop = next(p for p in model.metadata_props if p.key == "labels")
  prop.value = prop.value.replace("cat", "cow")


def _other_preprocessing(model):
  # Far behind what is the same.
  prop = next(p for p in model.metadata_props if p.key == "preprocessing")
  assert prop.value.index("0.25") > 80
  prop.value = prop.value.replace("0.25", "0.75")


def _one_more_transposition(model):
  name = model.graph.node[0].output[0]
  for node in model.graph.node[1:]:
    for i, given in enumerate(node.input):
      node.input[i] = "twice" if given == name else given
  for new in (onnx.helper.make_node("Transpose", ["once"], ["twice"],
                                    perm=[0, 2, 1, 3]),
              onnx.helper.make_node("Transpose", [name], ["once"],
                                    perm=[0, 2, 1, 3])):
    model.graph.node.insert(1, new)


def _weight_from_outside(model):
  tensor = model.graph.initializer[0]
  model.graph.input.append(onnx.helper.make_tensor_value_info(
      tensor.name, tensor.data_type, tensor.dims))


@pytest.mark.parametrize("name,change,words", [
    ("golden", _other_weight, "golden outputs differ"),
    ("hashes", _last_bit_of_a_weight, "model.onnx is not as it was exported"),
    ("metadata", _other_labels, "labels is 'cow"),
    ("metadata", _other_preprocessing, "0.75"),
    ("constants", _weight_from_outside, "can be put in from outside"),
    ("graph", _one_more_transposition, "3 transpositions, expected 1"),
])
def test_checks_find_what_is_wrong(classifier, tmp_path, name, change, words):
  subject = _damaged(classifier, tmp_path, change)
  check, = [c for c in onnx_checks.CHECKS if c.name == name]
  sound = _damaged(classifier, tmp_path / "sound", lambda model: None)
  assert check.function(sound).status == report.PASSED
  result = check.function(subject)
  assert result.status == report.FAILED
  assert words in result.message


def test_a_feature_extractor_has_no_labels(exports, tmp_path):
  subject = _damaged(
      exports["tiny_feature_extractor_onnx"], tmp_path,
      lambda model: model.metadata_props.add(key="labels", value="cat"))
  result = onnx_checks.metadata(subject)
  assert result.status == report.FAILED
  assert "labels is 'cat', expected 'None'" in result.message


@pytest.mark.parametrize("seed,status", [(0, report.PASSED),
                                         (1, report.FAILED)])
def test_a_saved_model_of_the_same_weights_is_compared(seed, status, tmp_path):
  written = {}
  for name, weights in (("onnx", 0), ("serving", seed)):
    payload, = making.payloads([tiny_inference.make(seed=weights)], name,
                               forms.chosen(name, {}))
    written[name] = saved_model.write(payload, tmp_path, "local").export_dir
  result = siblings.saved_model(subject_lib.Subject(
      written["onnx"], export_dirs.read_manifest(written["onnx"]), "digits",
      "test", None, 8))
  assert result.status == status
  assert "tiny_classification_serving_float32/1" in result.message


def test_outputs_do_not_tell_the_last_bit_of_a_weight(classifier, tmp_path):
  subject = _damaged(classifier, tmp_path, _last_bit_of_a_weight)
  check, = [c for c in onnx_checks.CHECKS if c.name == "golden"]
  assert check.function(subject).status == report.PASSED


def test_a_damaged_saved_model_beside_it_is_told(tmp_path):
  written = {}
  for name in ("onnx", "serving"):
    payload, = making.payloads([tiny_inference.make()], name,
                               forms.chosen(name, {}))
    written[name] = saved_model.write(payload, tmp_path, "local").export_dir
  (written["serving"] / "saved_model.pb").write_bytes(b"no graph")
  with pytest.raises(errors.ChecksError) as e:
    siblings.saved_model(subject_lib.Subject(
        written["onnx"], export_dirs.read_manifest(written["onnx"]), "digits",
        "test", None, 8))
  assert str(e.value).startswith(f"{written['serving']}, of the same weights")
  assert str(e.value).endswith("Export it again, or remove it.")


def _last_layer(model):
  dense, = (n for n in model.graph.node if n.op_type == "MatMul")
  return dense


def _weight_of_no_constant(model):
  _last_layer(model).input[1] = model.graph.input[0].name


@pytest.mark.parametrize("change", [
    _weight_of_no_constant,
    lambda model: setattr(_last_layer(model), "op_type", "Gemm")])
def test_a_classifier_without_a_last_layer(classifier, tmp_path, change):
  found = _damaged(classifier, tmp_path / "sound", lambda m: None).model
  kernel, bias = (v.numpy() for v in found.variables)
  weights = tiny_inference.tensors(tiny_inference.architecture())
  np.testing.assert_array_equal(kernel, weights["head/kernel"])
  np.testing.assert_array_equal(bias, weights["head/bias"])
  change(found.proto)
  with pytest.raises(errors.HubExportError, match="has no variable"):
    subject_lib.head(found)


def test_what_is_no_model_is_told_in_one_message(classifier, tmp_path):
  subject = _damaged(classifier, tmp_path, lambda model: None)
  (tmp_path / form.MODEL).write_bytes(b"no model")
  with pytest.raises(errors.ChecksError, match="cannot load"):
    _ = subject.model


def test_metadata_says_what_is_needed_elsewhere(classifier):
  found = onnxruntime.InferenceSession(
      str(classifier / form.MODEL)).get_modelmeta().custom_metadata_map
  assert found["labels"].split("\n") == [*tiny_inference.LABELS]
  assert json.loads(found["preprocessing"])["mean"] == [*_MEAN]
  assert found["name"] == "tiny_classification_onnx"
