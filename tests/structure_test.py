"""Tests of the structure checks: sound exports pass, planted faults do not."""

import hashlib
import json
import shutil

import pytest

from checks import structure
from hub_export import export_dirs
from tests import tiny_saved_model
from tests import tiny_subject

CHECKS = {f.__name__: f for f in (
    structure.files, structure.manifest, structure.interface,
    structure.signatures, structure.parameters, structure.weights,
    structure.labels)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Returns a function from (kind, fault) to an export, each made once."""
  directory = tmp_path_factory.mktemp("made")
  exports = {}

  def make(kind="classifier", fault=None):
    if (kind, fault) not in exports:
      exports[kind, fault] = tiny_saved_model.write(
          directory / f"{kind}_{fault}", directory / "data", kind, fault)
    return exports[kind, fault]

  return make


@pytest.fixture
def copy(made, tmp_path):
  """Returns an own copy of the sound classifier, to be spoilt."""
  source = made()
  target = tmp_path.joinpath(*source.parts[-3:])
  shutil.copytree(source, target)
  return target


def _edit_manifest(export_dir, edit):
  path = export_dir / "assets.extra" / "manifest.json"
  record = json.loads(path.read_text())
  edit(record)
  path.write_text(json.dumps(record))


@pytest.mark.parametrize("kind", ["classifier", "feature_extractor"])
@pytest.mark.parametrize("name", CHECKS)
def test_sound(made, kind, name):
  result = CHECKS[name](tiny_subject.of(made(kind)))
  assert (result.status, result.group) == ("passed", ""), result.message


class TestFiles:

  def test_extra(self, made):
    result = structure.files(tiny_subject.of(made(fault="extra_file")))
    assert result.status == "failed"
    assert "assets.extra/notes.txt does not belong" in result.message

  @pytest.mark.parametrize("name", [
      "assets/labels.txt", "assets.extra/golden.npz", "fingerprint.pb"])
  def test_missing(self, copy, name):
    (copy / name).unlink()
    result = structure.files(tiny_subject.of(copy))
    assert (result.status, result.message) == ("failed", f"{name} is missing")

  def test_labels_beside_a_feature_extractor(self, made, tmp_path):
    export_dir = tmp_path / "local" / "tiny_digits_feature_extractor" / "1"
    shutil.copytree(made("feature_extractor"), export_dir)
    (export_dir / "assets").mkdir()
    (export_dir / "assets" / "labels.txt").write_text("one\n")
    result = structure.files(tiny_subject.of(export_dir))
    assert "assets/labels.txt does not belong" in result.message


class TestHashes:

  def _subject(self, export_dir, **changes):
    files = [{"name": str(path), "bytes": (export_dir / path).stat().st_size,
              "sha256": hashlib.sha256(
                  (export_dir / path).read_bytes()).hexdigest()}
             for path in export_dirs.files(export_dir)
             if path.parts[0] not in ("assets", "assets.extra")]
    _edit_manifest(export_dir, lambda m: m.update({"files": files} | changes))
    return tiny_subject.of(export_dir)

  def test_sound(self, copy):
    result = structure.hashes(self._subject(copy))
    assert (result.status, result.figures) == ("passed", {"files": 4})

  @pytest.mark.parametrize("change, words", [
      (lambda d: (d / "fingerprint.pb").unlink(), "fingerprint.pb is missing"),
      (lambda d: (d / "more.bin").touch(), "more.bin was not exported"),
      (lambda d: (d / "variables/variables.index").write_bytes(b"abc"),
       "variables/variables.index is not as it was exported: 3 bytes of "
       "SHA-256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")])
  def test_changed(self, copy, change, words):
    subject = self._subject(copy)
    change(copy)
    result = structure.hashes(subject)
    assert result.status == "failed" and result.message.startswith(words)
    assert result.message.count(";") == 0  # The others are as they were.
    assert result.message.endswith("Export the checkpoint again.")

  @pytest.mark.parametrize("files", [
      None, 3, ["a"], {}, [{"name": "a"}], [{"name": ["a"], "bytes": 1,
                                             "sha256": "2"}]])
  def test_a_manifest_that_does_not_say(self, copy, files):
    result = structure.hashes(self._subject(copy, files=files))
    assert result.status == "failed"
    assert result.message.endswith("Export the checkpoint again.")


class TestManifest:

  @pytest.mark.parametrize("edit, fault", [
      (lambda m: m.pop("licence"), "licence is missing"),
      (lambda m: m["weights"].pop("sha256"), "weights.sha256 is missing"),
      (lambda m: m.update(is_demo="yes"), "is_demo is 'yes'"),
      (lambda m: m.update(handle="local/other/1"), "the export lies in local/"),
      (lambda m: m["preprocessing"].pop("crop_px"), "preprocessing: "),
      (lambda m: m.update(schema_version=2), "schema_version is 2"),
      (lambda m: m.update(handle="local/tiny_serving_float32/1"),
       "the module's name ends as that of a form without variables, but its "
       "form is portable"),
  ])
  def test_fault(self, copy, edit, fault):
    _edit_manifest(copy, edit)
    result = structure.manifest(tiny_subject.of(copy))
    assert result.status == "failed"
    assert fault in result.message


class TestSignatures:

  def test_missing(self, made):
    result = structure.signatures(
        tiny_subject.of(made(fault="missing_signature")))
    assert result.status == "failed"
    assert result.message == "signature image_bytes is missing"

  def test_other_number_of_classes(self, copy):
    _edit_manifest(copy, lambda m: m["outputs"].update(num_classes=11))
    result = structure.signatures(tiny_subject.of(copy))
    assert "serving_default gives {'logits': 'float32 [?, 10]'}" in (
        result.message)


class TestParameters:

  def test_counts_are_those_of_the_layers(self, made):
    result = structure.parameters(tiny_subject.of(made()))
    # 5x5 convolution of 3 channels, two vectors, the last layer; two moving.
    width = tiny_saved_model.WIDTH
    trainable = 75 * width + 2 * width + 9 * width * 10 + 10
    assert result.figures == {
        "trainable": trainable, "total": trainable + 2 * width}

  def test_other_number(self, copy):
    _edit_manifest(copy, lambda m: m["parameters"].update(trainable=7))
    result = structure.parameters(tiny_subject.of(copy))
    assert "8,026 trainable parameters, but the manifest says 7" in (
        result.message)


class TestWeights:

  def test_other_backbone(self, made):
    subject = tiny_subject.of(made("feature_extractor", "other_weights"))
    result = structure.weights(subject)
    assert result.status == "failed"
    assert "the variables' backbone_sha256 is" in result.message
    assert "variables' sha256" not in result.message

  def test_other_head(self, made):
    subject = tiny_subject.of(made())
    bias = next(v for v in subject.model.variables if "head/bias" in v.name)
    bias.assign(bias + 1)
    result = structure.weights(subject)
    assert "the variables' sha256 is" in result.message
    assert "backbone" not in result.message


class TestInterface:

  def test_variables_with_one_name(self, made):
    subject = tiny_subject.of(made())
    v = subject.model.variables
    subject.model.variables = [*v, v[0]]
    result = structure.interface(subject)
    assert "2 variables are called stem/conv:0" in result.message

  def test_trainable_left_out(self, made):
    subject = tiny_subject.of(made())
    subject.model.trainable_variables = subject.model.trainable_variables[1:]
    result = structure.interface(subject)
    assert "stem/conv:0 is trainable, not in trainable_var" in result.message

  def test_statistic_listed_as_trainable(self, made):
    subject = tiny_subject.of(made())
    subject.model.trainable_variables = subject.model.variables
    result = structure.interface(subject)
    assert "stem/moving_mean:0 is in trainable_variables, not trainable" in (
        result.message)


class TestLabels:

  def test_order(self, made):
    result = structure.labels(tiny_subject.of(made(fault="label_order")))
    assert result.status == "failed"
    assert "class 3 is called 'four', in optical_digits it is 'three'" in (
        result.message)

  def test_twice(self, copy):
    content = b"one\n" * 10
    (copy / "assets" / "labels.txt").write_bytes(content)
    _edit_manifest(copy, lambda m: m["labels"].update(
        sha256=hashlib.sha256(content).hexdigest()))
    result = structure.labels(tiny_subject.of(copy))
    assert "10 classes are called 'one'" in result.message

  def test_changed_afterwards(self, copy):
    with open(copy / "assets" / "labels.txt", "a") as f:
      f.write("ten\n")
    result = structure.labels(tiny_subject.of(copy))
    assert "SHA-256 is not the manifest's; 11 labels" in result.message
