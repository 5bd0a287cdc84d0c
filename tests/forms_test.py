"""The registry of forms, what flags choose of it, and what names come of it."""

import json

import PIL.Image
import pytest

from checks import names as check_names_lib
from checks.forms import dispatch
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export.forms import extras
from hub_export.forms import making
from hub_export.regnet import checkpoints
from tests import tiny_inference

# The others' are in the tests of those forms, where what they need is.
_FROZEN = [form for form in forms.FORMS if not form.is_fine_tunable
           and form.name not in extras.FORMS]


def test_main_and_portable_alone_can_be_fine_tuned():
  assert [f.name for f in forms.FORMS if f.is_fine_tunable] == [
      "main", "portable"]


@pytest.mark.parametrize("form", forms.FORMS, ids=lambda f: f.name)
def test_records_are_whole(form):
  assert form.use.format(path="exports/a/1").count("exports/a/1") == 1
  assert len(form.files) <= 10 and form.files.isalnum()
  assert bool(form.option) == bool(form.choices)
  # The default is as exact as the main form.
  assert not form.choices or form.choices[0].loss is None


def test_choices():
  assert forms.chosen("main", {"precision": None}) is None
  assert forms.chosen("serving", {"precision": None}).name == "float32"
  assert forms.chosen("serving", {"precision": "bf16"}).name == "bf16"


@pytest.mark.parametrize("form,given,words", [
    ("main", {"precision": "bf16"}, ["--precision", "--form=serving", "main"]),
    ("serving", {"precision": "fp16"}, ["fp16", "float32, bf16"]),
])
def test_choices_that_are_none(form, given, words):
  with pytest.raises(errors.UsageError) as e:
    forms.chosen(form, given)
  for word in words:
    assert word in str(e.value)


def test_manifests_say_what_they_lose():
  bf16 = {"form": "serving", "precision": "bf16"}
  assert forms.loss(bf16).top1_points == 0.5
  assert forms.loss(bf16 | {"precision": "float32"}) is None
  assert forms.loss({"form": "main"}) is None
  assert not forms.is_fine_tunable(bf16)
  # Of an unknown form, the usual checks say that it is unknown.
  for form in ("main", "portable", "poem", None):
    assert forms.is_fine_tunable({"form": form})


@pytest.mark.parametrize("form", _FROZEN, ids=lambda f: f.name)
def test_no_form_is_taken_for_the_one_that_can_be_fine_tuned(form, tmp_path):
  check_names(form, tmp_path)


@pytest.mark.parametrize("name, manifest, expected", [
    ("a_serving_bf16", {"form": "serving", "precision": "bf16"},
     "serving bf16"),
    ("a_lite_dynamic", {"form": "lite", "quantization": "dynamic"},
     "lite dynamic"),
    ("a_onnx", {"form": "onnx"}, "onnx"), ("a_tfjs", {"form": "tfjs"}, "tfjs")])
def test_what_a_form_is_called(name, manifest, expected):
  assert forms.main_name(name) == "a"
  assert forms.label(manifest) == expected
  # What only looks like it is part of the name.
  for other in ("a", "a_serving", "a_lite_int4", "portable_a", "aonnx"):
    assert forms.main_name(other) == other
  assert forms.label({"form": "portable"}) == "portable"


@pytest.mark.parametrize("form", _FROZEN, ids=lambda f: f.name)
def test_the_gate_asks_for_what_the_suite_runs(form):
  check_gate(form)


@pytest.mark.parametrize(
    "form", [f for f in forms.FORMS if not f.is_fine_tunable],
    ids=lambda f: f.name)
@pytest.mark.parametrize("format_name", [None, "saved_model", "torch"])
def test_no_form_without_variables_is_taken_for_a_checkpoint(
    form, format_name, tmp_path):
  choice = form.choices[-1] if form.choices else None
  name = forms.module_name("tiny_classification", form.name, choice)
  path = tmp_path / export_dirs.MANIFEST
  path.parent.mkdir()
  path.write_text(json.dumps(
      {"form": form.name, "handle": f"local/{name}/3"}))
  (tmp_path / form.marker).write_bytes(b"model")
  for named in (tmp_path, tmp_path / form.marker):
    with pytest.raises(errors.CheckpointError) as e:
      checkpoints.open(named, format_name=format_name)
    assert f"in the form {form.name}, for inference alone" in str(e.value)
    assert "main form of the same weights (local/tiny_classification)" in str(
        e.value)
  # Of a manifest of anyone's, nothing is taken for granted.
  path.write_text(json.dumps({"form": form.name}))
  with pytest.raises(errors.CheckpointError, match="of the same weights, or"):
    checkpoints.open(tmp_path, format_name=format_name)
  for other in ("main", ["serving"], {}):
    path.write_text(json.dumps({"form": other}))
    with pytest.raises(errors.CheckpointError) as e:
      checkpoints.open(tmp_path, format_name=format_name)
    assert "for inference alone" not in str(e.value)


def check_gate(form):
  """Checks that nothing is published without each of the form's checks."""
  listed = dispatch.checks(form.name)
  assert {*check_names_lib.EXPECTED[form.name]} == {
      "classifier", "feature_extractor"}
  for kind, expected in check_names_lib.EXPECTED[form.name].items():
    assert sorted(expected) == sorted(
        [f"{c.group}/{c.name}" for c in listed
         if kind in c.kinds and c.name != "expected"] + ["card/card"])


def check_names(form, tmp_path):
  """Checks that modules in a form are called and described as such."""
  for i in range(forms.FEWEST_CALIBRATION_EXAMPLES):
    PIL.Image.new("RGB", (40, 40), (200, 90, i)).save(tmp_path / f"{i}.png")
  inference = tiny_inference.make("feature_extractor")
  names = set()
  for choice in form.choices or (None,):
    made, = making.payloads([inference], form.name, choice,
                            forms.Calibration(tmp_path))
    names.add(made.name)
    assert made.name.startswith(f"tiny_feature_extractor_{form.name}")
    assert made.manifest["form"] == form.name
    # Its companion is of the same form.
    assert made.manifest["companion"] == made.name.replace(
        "feature_extractor", "classification")
    assert "endpoints" not in made.manifest["outputs"]
    # It takes images of one dtype, unlike the main form.
    assert "compute_dtypes" not in made.manifest["inputs"]
    if choice:
      assert made.manifest[form.option] == choice.name
      assert made.name.endswith(f"_{choice.name}")
      assert ("loss" in made.manifest) == bool(choice.loss)
  assert len(names) == max(1, len(form.choices))
  # What was handed over is as it was.
  assert inference.manifest["form"] == "main"
  assert "endpoints" in inference.manifest["outputs"]
  assert "compute_dtypes" in inference.manifest["inputs"]


@pytest.mark.parametrize("form,missing", [
    ("onnx", "tf2onnx"), ("tfjs", "@tensorflow/tfjs-core")])
def test_missing_extras_are_told_in_one_message(form, missing, monkeypatch,
                                                tmp_path):
  monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
  monkeypatch.setenv(extras.NODE_MODULES, str(tmp_path))
  with pytest.raises(errors.UnavailableError) as e:
    making.payloads([], form, None).__next__()
  assert missing in str(e.value)
  assert "//hub_export:export_forms" in str(e.value)
  assert "requirements-forms.txt" in str(e.value)
  # What needs nothing more goes on.
  assert not [*making.payloads([], "serving", None)]


@pytest.mark.parametrize("said,expected", [
    ("echo v16.20.2", r"needs Node.js 18 or newer .*says v16.20.2., not inst"),
    ("exit 1", "says nothing"),
    ("echo v18.0.0", None)])
def test_a_node_that_cannot_run_tensorflow_js_is_told(said, expected,
                                                      monkeypatch, tmp_path):
  program = tmp_path / "node"
  program.write_text(f"#!/bin/sh\n{said}\n")
  program.chmod(0o755)
  for package in ("core", "converter", "backend-cpu", "backend-wasm"):
    path = tmp_path / f"@tensorflow/tfjs-{package}/package.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
  monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
  monkeypatch.setenv(extras.NODE_MODULES, str(tmp_path))
  monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
  if expected:
    with pytest.raises(errors.UnavailableError, match=expected):
      extras.require("tfjs")
  else:
    extras.require("tfjs")
    assert extras.node() == extras.Node(str(program), tmp_path)


def test_programs_that_have_the_extras_are_named(monkeypatch):
  monkeypatch.setenv("BUILD_WORKING_DIRECTORY", "somewhere")
  assert "//checks:check_forms" in extras.command("onnx", "//checks:check")
  assert "forms" not in extras.command("serving", "//checks:check")
  monkeypatch.delenv("BUILD_WORKING_DIRECTORY")
  assert extras.command("tfjs", "//checks:check") == "python -m checks.check"
