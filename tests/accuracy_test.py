"""Tests of the accuracy checks: counting, comparing and refusing."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from checks import accuracy
from checks import evaluation
from checks import predictions
from hub_export import errors
from hub_export import export_dirs
from tests import tiny_saved_model
from tests import tiny_subject


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def exports(tmp_path_factory, data_dir):
  """An output directory with both modules."""
  output_dir = tmp_path_factory.mktemp("exports")
  for kind in ("classifier", "feature_extractor"):
    tiny_saved_model.write(output_dir, data_dir, kind)
  return output_dir / "local"


@pytest.fixture(scope="module")
def evaluated(exports, data_dir):
  subject = tiny_subject.of(
      exports / "tiny_digits_classification" / "1", data_dir)
  return subject, accuracy.run(subject)


class TestClassifier:

  def test_as_numpy_solved_it(self, evaluated):
    subject, evaluation = evaluated
    expected = subject.manifest["reported_accuracy"]["top1"]
    top1 = evaluation.predictions.top1
    assert 100 * top1.correct / 360 == pytest.approx(expected)
    assert 90 < expected < 99
    assert accuracy.top1(subject, evaluation).status == "passed"
    assert accuracy.top5(subject, evaluation).status == "passed"
    assert accuracy.counting(subject, evaluation).figures == {"examples": 360}

  @pytest.mark.parametrize("shift, status", [
      (0.29, "passed"), (-0.29, "passed"), (0.31, "failed"),
      (-0.31, "failed")])
  def test_tolerance(self, evaluated, shift, status):
    subject, evaluation = evaluated
    reported = subject.manifest["reported_accuracy"]  # Tolerance 0.3.
    other = dataclasses.replace(subject, manifest=subject.manifest | {
        "reported_accuracy": reported | {"top1": reported["top1"] + shift}})
    assert accuracy.top1(other, evaluation).status == status

  def test_nothing_reported(self, evaluated):
    subject, evaluation = evaluated
    other = dataclasses.replace(
        subject, manifest=subject.manifest | {"reported_accuracy": None})
    result = accuracy.top1(other, evaluation)
    assert result.status == "not_run"
    assert "--reported_top1" in result.message

  def test_another_split_than_reported(self, evaluated):
    subject, evaluation = evaluated
    result = accuracy.top1(
        dataclasses.replace(subject, split="train"), evaluation)
    assert result.status == "not_run"
    assert "reported accuracy is for optical_digits/test" in result.message

  @pytest.mark.parametrize("expect_top1, status", [
      (0.09, "passed"), (-0.09, "passed"), (0.11, "failed"), (-0.11, "failed")])
  def test_what_the_user_expects(self, evaluated, expect_top1, status):
    subject, evaluation = evaluated
    top1 = evaluation.predictions.top1.to_dict()["value"]
    other = dataclasses.replace(subject, expect_top1=top1 + expect_top1)
    result = accuracy.expected_top1(other, evaluation)
    assert result.status == status and "--expect_top1" in result.message or (
        status == "passed")

  @pytest.mark.parametrize("change, message", [
      ({"num_examples": 361}, "360 examples of optical_digits/test were read; "
       "expected 361"), ({"names": 2}, "1 file names of optical_digits/test"),
      ({}, None)])
  def test_each_example_once(self, evaluated, change, message):
    subject, evaluation = evaluated
    found = evaluation.predictions
    if "names" in change:
      found = dataclasses.replace(
          found, file_names=(found.file_names[1], *found.file_names[1:]))
    else:
      subject = dataclasses.replace(subject)
      subject.evaluation_set = dataclasses.replace(
          subject.evaluation_set, **change)
    result = accuracy.counting(subject, _evaluated(evaluation, found))
    assert result.status == ("failed" if message else "passed")
    assert (message or "360 examples of optical_digits/test, each once") in (
        result.message)


class TestEarlier:
  """Other evaluations of the same weights beside this one."""

  @pytest.fixture(name="beside")
  def _beside(self, exports, evaluated, tmp_path):
    """Two versions of one export, both evaluated; the second as it is told."""
    del evaluated  # So that the first is.
    model_dir = tmp_path / "local" / "tiny_digits_classification"
    for version in ("1", "2"):
      shutil.copytree(exports / model_dir.name / "1", model_dir / version)
    shutil.copytree(exports / model_dir.name / "1.evaluations",
                    model_dir / "1.evaluations")
    subject = tiny_subject.of(model_dir / "1", tmp_path / "unused")
    path = export_dirs.evaluation_path(
        model_dir / "2", "optical_digits", "test", ".parquet")

    def run(found, about, change=lambda s: s):
      predictions.write(found, path, about)
      own, context = predictions.read(export_dirs.evaluation_path(
          model_dir / "1", "optical_digits", "test", ".parquet"))
      return accuracy.earlier(change(subject), accuracy.Evaluated(
          evaluation.Evaluation(own, context, 0, 10), None, ()))

    return (*predictions.read(export_dirs.evaluation_path(
        model_dir / "1", "optical_digits", "test", ".parquet")), run)

  def test_agrees(self, beside):
    found, about, run = beside
    result = run(found, about)
    assert (result.status, result.figures) == ("passed", {"earlier": 1})

  @pytest.mark.parametrize("key, field, seen", [
      ("weights", "sha256", 0), ("preprocessing", "crop_px", 0),
      ("form", None, 1)])
  def test_of_another_manifest(self, beside, tmp_path, key, field, seen):
    """Another form of the same weights may flip what nearly ties."""
    found, about, run = beside
    export_dir = tmp_path / "local" / "tiny_digits_classification" / "2"
    path = export_dir / export_dirs.MANIFEST
    manifest = json.loads(path.read_text())
    if field:
      manifest[key][field] = "another"
    else:
      manifest[key] = "another"
    path.write_text(json.dumps(manifest))
    about["exports_sha256"] = [export_dirs.digest(export_dir)]
    top = np.roll(found.top, 1, axis=1)
    margins = np.full_like(found.margins, 1e-5)
    result = run(dataclasses.replace(found, top=top, margins=margins), about)
    assert (result.status, result.figures) == ("passed", {"earlier": seen})
    assert ("360 predictions differ" in result.message) == bool(seen)

  def test_however_the_data_set_is_called(self, beside):
    """As imagenet_v2, which is kept as imagenet_v2/matched-frequency."""
    found, about, run = beside
    assert run(found, about, lambda s: dataclasses.replace(
        s, dataset="optical_digits:1.0.0")).figures == {"earlier": 1}

  @pytest.mark.parametrize("close, same_runtime, status, words", [
      (True, True, "failed", "on the same runtime"),
      (True, False, "passed", "1 predictions differ from those of"),
      (False, False, "failed", "differ plainly: digit_")])
  def test_another_prediction(
      self, beside, close, same_runtime, status, words):
    found, about, run = beside
    i = int(np.flatnonzero(found.hits[:, 0])[7])
    top, margins = found.top.copy(), found.margins.copy()
    top[i, :2] = top[i, 1::-1]
    margins[i] = 1e-5 if close else 1.0
    if not same_runtime:
      about["runtime"] = about["runtime"] | {"device": "another"}
    result = run(dataclasses.replace(found, top=top, margins=margins), about)
    assert result.status == status and words in result.message
    assert found.file_names[i] in result.message or same_runtime

  @pytest.mark.parametrize("other", ["export", "data", "nothing"])
  def test_of_anything_else_is_not_compared(self, beside, other):
    found, about, run = beside
    if other == "export":
      about["exports_sha256"] = ["0" * 64]
    elif other == "data":
      found = found.rows(range(1, len(found)))
    if other != "nothing":
      result = run(dataclasses.replace(found, top=found.top[:, ::-1]), about)
      assert result.figures == {"earlier": 0}
      assert "no earlier evaluation" in result.message
    else:
      about["context"] = "whatever else is said"
      assert run(found, about).figures == {"earlier": 1}

  def test_a_damaged_file_is_passed_over(self, beside, monkeypatch):
    found, about, run = beside
    monkeypatch.setattr(predictions, "write", lambda rows, path, about: (
        path.parent.mkdir(), path.write_bytes(b"damaged")))
    assert run(found, about).figures == {"earlier": 0}

  @pytest.mark.parametrize("same_runtime, close, status, words", [
      (True, False, "failed", " had "),
      (False, True, "passed", "360 predictions differ from those of"),
      (False, False, "failed", " predicted otherwise")])
  def test_the_same_export_before(
      self, evaluated, same_runtime, close, status, words):
    subject, done = evaluated
    found, context = done.predictions, done.evaluation.context
    other = dataclasses.replace(
        found, top=np.roll(found.top, 1, axis=1),
        margins=np.full_like(found.margins, 1e-5 if close else 1.0))
    again = dataclasses.replace(
        done.evaluation, earlier=other, earlier_context=dict(context) | (
            {} if same_runtime else {"runtime": {"device": "another"}}))
    result = accuracy.earlier(
        subject, dataclasses.replace(done, evaluation=again))
    assert result.status == status and words in result.message
    assert "kept as optical_digits-test.earlier.parquet" in result.message


def _evaluated(evaluated, found):
  """Returns an evaluation with other predictions."""
  return dataclasses.replace(evaluated, evaluation=dataclasses.replace(
      evaluated.evaluation, predictions=found))


class TestFeatureExtractor:

  def _subject(self, exports, data_dir):
    return tiny_subject.of(
        exports / "tiny_digits_feature_extractor" / "1", data_dir)

  def test_same_counts_as_the_classifier(self, exports, data_dir, evaluated):
    subject = self._subject(exports, data_dir)
    evaluation = accuracy.run(subject)
    assert evaluation.predictions.top1 == evaluated[1].predictions.top1
    result = accuracy.same_as_classifier(subject, evaluation)
    assert (result.status, result.figures) == ("passed", {"flips": 0})

  @pytest.mark.parametrize("share, form, status", [
      (1e-5, {}, "passed"), (0.1, {}, "failed"),
      (0.1, {"form": "lite", "quantization": "float32"}, "failed"),
      (0.1, {"form": "lite", "quantization": "int8"}, "passed")])
  def test_near_ties_may_go_either_way(
      self, exports, data_dir, evaluated, share, form, status):
    """Another class is the fifth, hardly or plainly more likely."""
    subject = self._subject(exports, data_dir)
    subject.manifest = {**subject.manifest, **form}
    found = evaluated[1].predictions
    sixth = next(c for c in range(10) if c not in found.top[0])
    top, probabilities = found.top.copy(), found.probabilities.copy()
    top[0, 4] = sixth
    probabilities[0, 4] *= 1 + share
    result = accuracy.same_as_classifier(
        subject, accuracy.Evaluated(
            dataclasses.replace(
                evaluated[1].evaluation, predictions=dataclasses.replace(
                    found, top=top, probabilities=probabilities)),
            found, evaluated[1].classes))
    assert result.status == status
    if status == "failed":
      assert result.message == ("the best five of 1 examples are others, such "
                                f"as those of {found.file_names[0]}")

  def test_other_weights(self, exports, data_dir, tmp_path):
    shutil.copytree(exports / "tiny_digits_classification",
                    tmp_path / "local" / "tiny_digits_classification")
    export_dir = tiny_saved_model.write(
        tmp_path, data_dir, "feature_extractor", "other_weights")
    subject = tiny_subject.of(export_dir, data_dir)
    result = accuracy.same_as_classifier(subject, accuracy.run(subject))
    assert result.status == "failed"
    assert "predictions differ, such as those for digit_" in result.message

  def test_no_classifier(self, exports, data_dir, tmp_path):
    target = tmp_path / "local" / "tiny_digits_feature_extractor"
    shutil.copytree(exports / "tiny_digits_feature_extractor", target)
    with pytest.raises(errors.UnavailableError, match="classifier of the same"):
      accuracy.run(tiny_subject.of(target / "1", data_dir))

  def test_checkpoint_without_a_head(self, exports, data_dir):
    subject = self._subject(exports, data_dir)
    subject.manifest["companion"] = None
    with pytest.raises(errors.UnavailableError, match="no classifier head.*"
                       "cannot be published yet. Export a checkpoint"):
      accuracy.run(subject)

  def test_classifier_of_other_weights_is_not_taken(
      self, exports, data_dir, tmp_path):
    shutil.copytree(exports, tmp_path / "local")
    path = (tmp_path / "local" / "tiny_digits_classification" / "1"
            / "assets.extra" / "manifest.json")
    digest = self._subject(exports, data_dir).manifest["weights"][
        "backbone_sha256"]
    path.write_text(path.read_text().replace(digest, "0" * 64))
    subject = self._subject(tmp_path / "local", data_dir)
    assert export_dirs.companion(subject.export_dir, subject.manifest) is None
