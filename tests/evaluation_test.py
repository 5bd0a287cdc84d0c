"""Tests of the evaluation: exact, resumable, and nothing stale used again."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from checks import evaluation
from checks import predictions
from hub_export import errors
from hub_export import export_dirs


@dataclasses.dataclass
class Numbers:
  """A data set whose images are one pixel, the logits' index in the list."""
  labels: list
  names: list = None
  num_examples: int = None
  images: list = None
  classes: int = 6
  name: str = "numbers"
  split: str = "test"

  def __post_init__(self):
    n = len(self.labels)
    self.names = self.names or [f"{i}.png" for i in range(n)]
    self.num_examples = n if self.num_examples is None else self.num_examples
    self.images = self.images or [
        tf.io.encode_png(np.full((1, 1, 3), i, np.uint8)).numpy()
        for i in range(n)]

  def examples(self, shard=(0, 1)):
    def rows():
      for i in range(shard[0], len(self.labels), shard[1]):
        yield {"image": self.images[i], "file_name": self.names[i],
               "labels": np.array(self.labels[i], np.int64).reshape(-1)}
    return tf.data.Dataset.from_generator(rows, output_signature={
        "image": tf.TensorSpec([], tf.string),
        "labels": tf.TensorSpec([None], tf.int64),
        "file_name": tf.TensorSpec([], tf.string)})

  def class_map(self, dataset, classes):
    assert (dataset, len(classes)) == ("numbers", self.classes)
    return types.SimpleNamespace(
        to_model=np.arange(self.classes, dtype=np.int32), allowed=None)


def _look_up(directory, logits, batch_size=4, sha256="0" * 64):
  """Returns a model that looks the logits up, and the sizes of its steps."""
  directory.mkdir(exist_ok=True)
  table, seen = np.array(logits, np.float32), []

  def function(images):
    seen.append(len(images))
    return tf.constant(table[np.round(255 * images[:, 0, 0, 0]).astype(int)])

  prep = types.SimpleNamespace(
      apply_batch=lambda batch: tf.map_fn(
          lambda e: tf.cast(tf.ensure_shape(
              tf.io.decode_png(e, channels=3), [1, 1, 3]), tf.float32) / 255,
          batch, fn_output_signature=tf.float32))
  return Steps(directory / "1", {"dataset": {"name": "numbers"}},
               ("class",) * table.shape[1], [sha256], prep, function,
               batch_size, seen=seen)


@dataclasses.dataclass(frozen=True)
class Steps(evaluation.Model):
  seen: list = None


# Six classes; the right one is at rank 1, 1, 2, 5, 6 and 1.
LOGITS = [[9, 1, 2, 3, 4, 5], [1, 9, 2, 3, 4, 5], [8, 9, 1, 2, 3, 4],
          [5, 6, 7, 8, 9, 4], [1, 2, 3, 4, 5, 0], [0, 0, 0, 0, 0, 1]]
LABELS = [0, 1, 0, 0, 5, 5]


def _path(tmp_path):
  return export_dirs.evaluation_path(
      tmp_path / "1", "numbers", "test", ".parquet")


class TestCounting:

  @pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
  def test_by_hand(self, tmp_path, batch_size):
    model = _look_up(tmp_path, LOGITS, batch_size)
    found = evaluation.evaluate(model, Numbers(LABELS)).predictions
    assert (found.top1.correct, found.top1.total) == (3, 6)
    assert (found.top5.correct, found.top5.total) == (5, 6)
    assert set(model.seen) == {batch_size}  # The last one is filled up.
    assert found.file_names == tuple(f"{i}.png" for i in range(6))
    assert found.labels[:, 0].tolist() == LABELS

  def test_a_single_class(self, tmp_path):
    numbers = Numbers([0, 0], classes=1)
    found = evaluation.evaluate(
        _look_up(tmp_path, [[0.5], [-2.0]]), numbers).predictions
    assert (found.top1.correct, found.top5.correct) == (2, 2)
    assert found.margins.tolist() == [0, 0]

  def test_several_and_no_right_classes(self, tmp_path):
    numbers = Numbers([[1, 0], [], [0, 3], [4], [], [5]])
    found = evaluation.evaluate(_look_up(tmp_path, LOGITS), numbers).predictions
    # 0 by its second label, 3 and 5 by their only one; 2 is wrong.
    assert (found.top1.correct, found.top1.total) == (3, 4)

  def test_tells_how_far_it_is(self, tmp_path):
    told = []
    evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS),
                        lambda *figures: told.append(figures))
    assert told == [(4, 6, 2), (6, 6, 3)]

  def test_an_example_that_comes_twice_is_there_twice(self, tmp_path):
    numbers = Numbers([0, 1], names=["a", "a"])
    found = evaluation.evaluate(_look_up(tmp_path, LOGITS), numbers).predictions
    assert found.file_names == ("a", "a")


class TestBesideAnAccelerator:
  """Images are decoded while the model runs elsewhere."""

  @pytest.fixture(autouse=True)
  def _accelerator(self, monkeypatch):
    monkeypatch.setattr(evaluation, "_has_accelerator", lambda: True)

  @pytest.mark.parametrize("batch_size", [1, 4, 100])
  def test_by_hand(self, tmp_path, batch_size):
    model = _look_up(tmp_path, LOGITS, batch_size)
    found = evaluation.evaluate(model, Numbers(LABELS)).predictions
    assert (found.top1.correct, found.top5.correct) == (3, 5)
    assert len(model.seen) == -(-6 // batch_size)

  def test_damaged_image(self, tmp_path):
    numbers = Numbers(LABELS)
    numbers.images[5] = numbers.images[5][:20]
    with pytest.raises(errors.HubExportError, match="^5.png of numbers/test"):
      evaluation.evaluate(_look_up(tmp_path, LOGITS), numbers)

  def test_interrupted(self, tmp_path):
    _interrupt(tmp_path)
    found = evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    assert found.reused == 4


class TestRefused:

  def test_no_example(self, tmp_path):
    with pytest.raises(errors.HubExportError, match="no example of numbers"):
      evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers([]))

  @pytest.mark.parametrize("value", [np.nan, np.inf])
  def test_logits_not_finite(self, tmp_path, value):
    logits = np.array(LOGITS, np.float32)
    logits[5, 2] = value
    with pytest.raises(errors.HubExportError, match="5.png are not finite"):
      evaluation.evaluate(_look_up(tmp_path, logits), Numbers(LABELS))

  def test_a_constant_network(self, tmp_path):
    with pytest.raises(errors.HubExportError, match="6 examples.*are equal"):
      evaluation.evaluate(_look_up(tmp_path, np.ones((6, 6))), Numbers(LABELS))
    assert not _path(tmp_path).exists()

  def test_logits_in_steps_are_equal_more_often(self, tmp_path):
    """Two of 20 are equal, which 8 bits make now and then, float32 does not."""
    logits, labels = np.tile(np.arange(6.0), (20, 1)), [5] * 20
    logits[[3, 11], 4] = 5.0

    def run(name, **manifest):
      model = _look_up(tmp_path / name, logits)
      return evaluation.evaluate(dataclasses.replace(
          model, manifest={**model.manifest, **manifest}), Numbers(labels))

    with pytest.raises(errors.HubExportError, match="2 examples.*1 in 1,000"):
      run("float32")
    assert len(run("int8", quantization="int8").predictions) == 20
    logits[0, 4] = 5.0
    with pytest.raises(errors.HubExportError, match=r"3 examples.*1 in 10\."):
      run("more", quantization="int8")

  def test_one_tie_may_be_chance(self, tmp_path):
    logits = np.array(LOGITS)
    logits[5, :2] = 1  # As class 5, which is right but not the first.
    found = evaluation.evaluate(_look_up(tmp_path, logits), Numbers(LABELS))
    assert found.predictions.top[5, 0] == 0

  @pytest.mark.parametrize("name, advice", [
      ("numbers", "Prepare the data set again"),
      ("folder:numbers", "Replace or remove that file")])
  def test_damaged_image(self, tmp_path, name, advice):
    numbers = Numbers(LABELS)
    numbers.name = name
    numbers.images[5] = numbers.images[5][:20]
    with pytest.raises(errors.HubExportError, match=f"^5.png of {name}/test "
                       r"cannot be decoded \(Invalid PNG[^)]*\); expected an "
                       f"encoded image. {advice}"):
      evaluation.evaluate(_look_up(tmp_path, LOGITS), numbers)

  def test_data_that_cannot_be_read(self, tmp_path, monkeypatch):
    numbers = Numbers(LABELS)
    def rows():
      yield {"image": numbers.images[0], "file_name": "0.png", "labels": [0]}
      raise tf.errors.DataLossError(None, None, "corrupted record")
    monkeypatch.setattr(numbers, "examples", lambda shard: types.
                        SimpleNamespace(as_numpy_iterator=lambda: (
                            e | {"file_name": e["file_name"].encode()}
                            for e in rows())))
    with pytest.raises(errors.HubExportError, match="corrupted record"):
      evaluation.evaluate(_look_up(tmp_path, LOGITS), numbers)

  def test_a_bug_is_not_taken_for_bad_data(self, tmp_path, monkeypatch):
    model = _look_up(tmp_path, LOGITS)

    def broken(images):
      raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
    model = dataclasses.replace(model, function=broken)
    with pytest.raises(tf.errors.ResourceExhaustedError):
      evaluation.evaluate(model, Numbers(LABELS))


class _Interrupted(Exception):
  pass


def _interrupt(tmp_path, **model):
  """Leaves an evaluation after its first step of four examples."""
  def stop(*_):
    raise _Interrupted
  with pytest.raises(_Interrupted):
    evaluation.evaluate(_look_up(tmp_path, LOGITS, **model), Numbers(LABELS),
                        stop)


class TestResumed:

  def test_goes_on_where_it_was(self, tmp_path):
    whole = evaluation.evaluate(
        _look_up(tmp_path / "whole", LOGITS), Numbers(LABELS)).predictions
    _interrupt(tmp_path)
    assert not _path(tmp_path).exists()
    model = _look_up(tmp_path, LOGITS)
    found = evaluation.evaluate(model, Numbers(LABELS))
    assert (found.reused, model.seen) == (4, [4])
    for field in dataclasses.fields(predictions.Predictions):
      np.testing.assert_array_equal(getattr(found.predictions, field.name),
                                    getattr(whole, field.name))
    assert list(_path(tmp_path).parent.iterdir()) == [_path(tmp_path)]

  def test_parts_are_kept_as_it_goes_on(self, tmp_path, monkeypatch):
    """A kill leaves no time to write anything."""
    monkeypatch.setattr(evaluation, "_PART_SECONDS", -1)
    parts = []
    evaluation.evaluate(
        _look_up(tmp_path, LOGITS, 2), Numbers(LABELS),
        lambda *_: parts.append(len(list(
            _path(tmp_path).with_suffix(".parts").glob("*.parquet")))))
    assert parts == [0, 1, 2]

  def test_finished_is_read_back(self, tmp_path):
    first = evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    model = _look_up(tmp_path, LOGITS)
    told = []
    again = evaluation.evaluate(model, Numbers(LABELS),
                                lambda *figures: told.append(figures))
    assert (again.reused, model.seen, told) == (6, [], [(6, 6, 3)])
    assert again.predictions.digest() == first.predictions.digest()
    assert again.earlier is None

  def test_fresh_uses_nothing_and_gives_the_earlier(self, tmp_path):
    first = evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    model = _look_up(tmp_path, np.roll(LOGITS, 1, axis=1))
    again = evaluation.evaluate(model, Numbers(LABELS), fresh=True)
    assert (again.reused, sum(model.seen)) == (0, 8)
    assert again.predictions.digest() != first.predictions.digest()
    assert again.earlier.digest() == first.predictions.digest()

  @pytest.mark.parametrize("change", [
      "image", "name", "label", "added", "removed"])
  def test_what_changed_in_the_data_is_evaluated_anew(self, tmp_path, change):
    evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    numbers = Numbers(LABELS)
    if change == "image":
      numbers.images[1] = numbers.images[0]
    elif change == "name":
      numbers.names[1] = "other.png"
    elif change == "label":
      numbers.labels = [0, 2, *LABELS[2:]]
    elif change == "added":
      numbers = Numbers([*LABELS, 3])
      numbers.images[6] = numbers.images[3]
    else:
      numbers = Numbers(LABELS[:5])
    model = _look_up(tmp_path, LOGITS)
    found = evaluation.evaluate(model, numbers)
    assert found.reused == (6 if change == "added" else 5)
    assert len(model.seen) == (0 if change == "removed" else 1)
    anew = evaluation.evaluate(_look_up(tmp_path / "anew", LOGITS), numbers)
    assert found.predictions.digest() == anew.predictions.digest()
    assert found.predictions.data_digest() == anew.predictions.data_digest()

  @pytest.mark.parametrize("other", [
      {"sha256": "1" * 64}, {"batch_size": 3}, {"runtime": 1}, {"code": 1}])
  def test_of_anything_else_nothing_is_used(self, tmp_path, monkeypatch, other):
    evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    if "runtime" in other:
      monkeypatch.setattr(
          evaluation, "runtime", lambda _: {"device": "other"})
    elif "code" in other:
      source = tmp_path / "preprocessing.py"
      source.write_text("other")
      monkeypatch.setattr(evaluation.preprocessing, "__file__", str(source))
    changed = {} if {"runtime", "code"} & set(other) else other
    model = _look_up(tmp_path, LOGITS, **changed)
    assert evaluation.evaluate(model, Numbers(LABELS)).reused == 0
    assert model.seen

  @pytest.mark.parametrize("module", [
      evaluation, evaluation.preprocessing, predictions])
  def test_of_other_code_nothing_is_used(self, tmp_path, monkeypatch, module):
    evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    source = tmp_path / "code.py"
    source.write_text("other")
    monkeypatch.setattr(module, "__file__", str(source))
    model = _look_up(tmp_path, LOGITS)
    assert evaluation.evaluate(model, Numbers(LABELS)).reused == 0

  def test_of_other_classes_nothing_is_used(self, tmp_path, monkeypatch):
    """The same examples, whose classes have other numbers or fewer."""
    evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    order = np.array([1, 0, 2, 3, 4, 5], np.int32)
    allowed = np.array([1, 1, 0, 0, 0, 1], bool)
    for mask, right in ((None, 2), (allowed, 3)):
      monkeypatch.setattr(
          Numbers, "class_map", lambda *_: types.SimpleNamespace(
              to_model=order, allowed=mask))
      found = evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
      assert found.reused == 0
      assert found.predictions.labels[:, 0].tolist() == [1, 0, 1, 1, 5, 5]
      assert found.predictions.top1.correct == right

  @pytest.mark.parametrize("change", ["runtime", "fresh"])
  def test_what_was_before_is_told_each_time(
      self, tmp_path, monkeypatch, change):
    first = evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    if change == "runtime":
      monkeypatch.setattr(
          evaluation, "runtime", lambda _: {"device": "other"})
    other = np.roll(LOGITS, 1, axis=1)
    for fresh, reused in ((change == "fresh", 0), (False, 6)):
      again = evaluation.evaluate(
          _look_up(tmp_path, other), Numbers(LABELS), fresh=fresh)
      assert again.reused == reused
      assert again.earlier.digest() == first.predictions.digest()
      assert again.earlier_context == first.context
    if change == "runtime":
      assert again.context["runtime"] == {"device": "other"}

  def test_what_another_export_predicted_is_not_told(self, tmp_path):
    evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    again = evaluation.evaluate(
        _look_up(tmp_path, LOGITS, sha256="1" * 64), Numbers(LABELS))
    assert again.earlier is None

  @pytest.mark.parametrize("damage", ["cut", "foreign"])
  def test_damaged_parts_are_removed(self, tmp_path, damage):
    _interrupt(tmp_path)
    part, = _path(tmp_path).with_suffix(".parts").iterdir()
    if damage == "cut":
      part.write_bytes(part.read_bytes()[:100])
    else:
      part.write_bytes(b"no Parquet at all")
    found = evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers(LABELS))
    assert found.reused == 0 and found.predictions.top1.correct == 3

  def test_shards_come_together(self, tmp_path):
    for i in range(3):
      model = _look_up(tmp_path, LOGITS)
      evaluation.evaluate(model, Numbers(LABELS), shard=(i, 3))
      assert model.seen == [4]
    model = _look_up(tmp_path, LOGITS)
    found = evaluation.evaluate(model, Numbers(LABELS))
    assert (found.reused, model.seen) == (6, [])
    assert found.predictions.top1.correct == 3

  def test_ties_are_counted_over_all_shards(self, tmp_path):
    """Two of 2,000 are let pass, also if both are in a small shard."""
    numbers = Numbers([0] * 2000, images=Numbers([0, 0]).images[:1] * 2000)
    tied = np.array([LOGITS[0], [9, 9, 2, 3, 4, 5]])
    for i in (3, 1003):
      numbers.images[i] = Numbers([0, 0]).images[1]
    model = _look_up(tmp_path, tied, 500)
    evaluation.evaluate(model, numbers, shard=(3, 1000))
    found = evaluation.evaluate(model, numbers)
    assert found.reused == 2
    assert (found.predictions.margins == 0).sum() == 2

  def test_a_shard_without_examples(self, tmp_path):
    evaluation.evaluate(_look_up(tmp_path, LOGITS), Numbers([0]), shard=(1, 2))
    assert not _path(tmp_path).exists()


class TestRuntime:

  def test_a_tpu_is_not_its_host(self):
    """So that nothing computed on a TPU passes for its host's."""
    tpu = object.__new__(tf.distribute.TPUStrategy)
    assert evaluation.runtime(tpu) != evaluation.runtime()
    assert evaluation.runtime(tpu)["device"] == "TPU"

  def test_steps_of_a_tpu_on_several_hosts(self, tmp_path):
    """One process feeds all of them."""
    class Pod:
      num_replicas_in_sync = 8
      cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
          tf.train.ClusterSpec({"worker": ["a:1", "b:1"]}), task_type="worker",
          task_id=0)

    model = dataclasses.replace(_look_up(tmp_path, LOGITS), strategy=Pod())
    assert model.step_size == 4 * 8
