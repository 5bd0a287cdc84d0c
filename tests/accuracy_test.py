"""Tests of the accuracy checks: counting, comparing and refusing."""

import dataclasses
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from checks import accuracy
from checks import evaluation_sets
from hub_export import errors
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


@dataclasses.dataclass
class Numbers:
  """A data set whose images are one pixel, the logits' index in the list."""
  labels: list
  names: list = None
  num_examples: int = None
  name: str = "numbers"
  split: str = "test"

  def __post_init__(self):
    n = len(self.labels)
    self.names = self.names or [f"{i}.png" for i in range(n)]
    self.num_examples = n if self.num_examples is None else self.num_examples

  def examples(self):
    images = [tf.io.encode_png(np.full((1, 1, 3), i, np.uint8)).numpy()
              for i in range(len(self.labels))]
    return tf.data.Dataset.from_tensor_slices(
        {"image": images, "labels": np.array(self.labels, np.int64)[:, None],
         "file_name": self.names})


def _predict(numbers, logits, batch_size=4):
  """Returns the predictions of a model that looks up `logits`."""
  batches = []

  def look_up(images):
    batches.append(int(images.shape[0]))
    index = tf.cast(tf.round(images[:, 0, 0, 0]), tf.int32)
    return {"export": tf.gather(tf.constant(logits, tf.float32), index)}

  decode = lambda e: tf.cast(tf.io.decode_png(e, channels=3), tf.float32)
  found = accuracy.predict(look_up, numbers, decode, 1, batch_size,
                           lambda done, total: None)
  return found["export"], batches


class TestPredict:
  # Six classes; the right one is at rank 1, 1, 2, 5, 6 and 1.
  LOGITS = [[9, 1, 2, 3, 4, 5], [1, 9, 2, 3, 4, 5], [8, 9, 1, 2, 3, 4],
            [5, 6, 7, 8, 9, 4], [1, 2, 3, 4, 5, 0], [0, 0, 0, 0, 0, 1]]
  LABELS = [0, 1, 0, 0, 5, 5]

  @pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
  def test_counts_by_hand(self, batch_size):
    found, batches = _predict(Numbers(self.LABELS), self.LOGITS, batch_size)
    assert (found.top1.correct, found.top1.total) == (3, 6)
    assert (found.top5.correct, found.top5.total) == (5, 6)
    assert set(batches) == {batch_size}  # The last one is filled up.

  def test_a_single_class(self):
    found, _ = _predict(Numbers([0, 0]), [[0.5], [-2.0]])
    assert (found.top1.correct, found.top5.correct) == (2, 2)
    assert found.margins.tolist() == [0, 0]

  @pytest.mark.parametrize("changes, message", [
      ({"num_examples": 7}, "6 examples of numbers/test were read; expected 7"),
      ({"names": ["a", "b", "c", "d", "e", "a"]}, "1 file names of numbers/"),
      ({}, None)])
  def test_each_example_once(self, changes, message):
    numbers = Numbers(self.LABELS, **changes)
    found, _ = _predict(numbers, self.LOGITS)
    subject = types.SimpleNamespace(
        dataset="numbers", split="test", evaluation_set=numbers)
    result = accuracy.counting(
        subject, accuracy.Evaluation(found, None, "0" * 64))
    assert result.status == ("failed" if message else "passed")
    assert (message or "6 examples of numbers/test, each once") in (
        result.message)

  def test_no_example(self, monkeypatch):
    numbers = Numbers(self.LABELS)
    empty = numbers.examples().take(0)
    monkeypatch.setattr(numbers, "examples", lambda: empty)
    with pytest.raises(errors.HubExportError, match="no example of numbers"):
      _predict(numbers, self.LOGITS)

  @pytest.mark.parametrize("value", [np.nan, np.inf])
  def test_logits_not_finite(self, value):
    logits = np.array(self.LOGITS, np.float32)
    logits[5, 2] = value
    with pytest.raises(errors.HubExportError, match="not finite"):
      _predict(Numbers(self.LABELS), logits)

  def test_damaged_image(self, monkeypatch):
    numbers = Numbers(self.LABELS)
    whole = numbers.examples()
    broken = whole.map(lambda e: e | {
        "image": tf.strings.substr(e["image"], 0, 20)})
    monkeypatch.setattr(numbers, "examples", lambda: broken)
    with pytest.raises(errors.HubExportError, match="cannot be read"):
      _predict(numbers, self.LOGITS)


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

  def test_digest_is_of_names_and_labels(self, evaluated):
    subject, evaluation = evaluated
    pairs = [(e["file_name"].decode(), int(e["labels"][0])) for e in
             subject.evaluation_set.examples().as_numpy_iterator()]
    assert evaluation.digest == evaluation_sets.digest(pairs)

  def test_labels_in_another_order(self, tmp_path, data_dir):
    export_dir = tiny_saved_model.write(
        tmp_path, data_dir, fault="label_order")
    with pytest.raises(errors.HubExportError, match="classes are not those"):
      accuracy.run(tiny_subject.of(export_dir, data_dir))


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
    assert subject.companion() is None
