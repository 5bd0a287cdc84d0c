"""Tests of the benchmark of evaluations, with a model of hardly anything."""

import io
import json
import threading

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from benchmarks import evaluation
from benchmarks import made_images
from hub_export import errors
from hub_export import preprocessing

_PREP = preprocessing.Preprocessing(
    (preprocessing.Resize("shorter", 16, "bicubic", True),), 12)


def _run(rate, cpu_ms=1.0, others=0.0):
  return evaluation.Run(rate, cpu_ms, others)


def _runs(**changes):
  return {path: [_run(10.0)] * 3 for path in evaluation.PATHS} | changes


class TestSummary:

  def test_medians_and_ratio_of_each_round(self):
    """The machine became slower from round to round; the ratio did not."""
    found = evaluation.summary(_runs(
        model=[_run(100.0, 9.0), _run(50.0, 11.0), _run(20.0, 10.0)],
        evaluation=[_run(95.0), _run(45.0), _run(19.0)]))
    assert found["paths"]["model"] == {
        "images_per_second": 50.0, "cpu_ms_per_image": 10.0}
    assert found["paths"]["evaluation"]["images_per_second"] == 45.0
    assert found["ratio"] == pytest.approx(0.95)  # Of 0.95, 0.9 and 0.95.

  @pytest.mark.parametrize("others, is_quiet, line", [
      (0.04, True, "4.0% of the machine: quiet"),
      (0.3, False, "30.0% of the machine: NOT quiet")])
  def test_one_disturbed_run_is_told(self, others, is_quiet, line):
    found = evaluation.summary(_runs(
        input=[_run(10.0), _run(10.0, others=others), _run(10.0)]))
    assert found["is_quiet"] == is_quiet
    assert line in evaluation.table(found)

  @pytest.mark.parametrize("rate, words", [
      (9.0, "0.900 (0.9 wanted: reached)"),
      (8.9, "0.890 (0.9 wanted: not reached)")])
  def test_whether_the_ratio_is_reached(self, rate, words):
    found = evaluation.summary(_runs(evaluation=[_run(rate)] * 3))
    assert words in evaluation.table(found)

  def test_a_missing_round_is_an_error(self):
    with pytest.raises(ValueError):
      evaluation.summary(_runs(model=[_run(1.0)]))


class TestMeasure:

  def test_own_work_is_counted_and_not_taken_for_others(self):
    data = np.ones(1000)
    def work(count):
      for _ in range(10_000 * count):
        data.sum()
    found = evaluation.measure(work, 10, 1)
    seconds_each = 1 / found.images_per_second
    assert 0.2 * seconds_each < found.cpu_ms / 1e3 < 1.2 * seconds_each
    assert 0 <= found.others <= 1

  def test_the_start_is_taken_off(self):
    """Waiting, which takes no processor: 0.3 s to begin, then 0.02 s each."""
    never = threading.Event()
    found = evaluation.measure(
        lambda count: never.wait(0.3 + 0.02 * count), 21, 1)
    assert found.images_per_second == pytest.approx(50, rel=0.2)
    assert found.cpu_ms < 5

  @pytest.mark.parametrize("num_images, batch_size, expected", [
      (1, 4, 8), (8, 4, 8), (9, 4, 12), (512, 64, 512)])
  def test_whole_batches(self, num_images, batch_size, expected):
    assert evaluation.whole_batches(num_images, batch_size) == expected


def test_all_paths_do_all_images(tmp_path):
  """In turn, the round to warm up with not counted."""
  images = evaluation.Images(tmp_path / "images", made_images.jpegs(2), 6)
  seen = []

  def predict(batch):
    seen.append(batch.shape.as_list())
    return tf.reduce_mean(batch, [1, 2])

  calls = []
  runs = evaluation.run_all(predict, _PREP, images, 2, 3,
                            lambda: calls.append(1))
  assert {path: len(runs[path]) for path in runs} == dict.fromkeys(
      evaluation.PATHS, 3)
  assert len(calls) == 4 * 4
  # One batch, then three; alone and in the evaluation; four times.
  assert seen == [[2, 12, 12, 3]] * ((1 + 3) * 2 * 4)


def test_examples_are_as_an_evaluation_wants_them(tmp_path):
  files = made_images.jpegs(2)
  examples = list(evaluation.Images(
      tmp_path / "images", files, 3).examples((0, 1)))
  assert [e["image"].numpy() for e in examples] == [files[0], files[1],
                                                    files[0]]
  assert len({e["file_name"].numpy() for e in examples}) == 3
  assert {e["labels"].dtype for e in examples} == {tf.int64}


def test_pil_does_the_same():
  """Or it would be no comparison."""
  encoded, = made_images.jpegs(1)
  pixels = evaluation.prepared_by_pil(encoded, _PREP)
  np.testing.assert_allclose(
      pixels, _PREP.apply(encoded).numpy() * 255, atol=1 + 1e-3)


class TestMadeImages:

  def test_cost_as_much_as_photographs(self):
    files = made_images.jpegs(8)
    sizes = [PIL.Image.open(io.BytesIO(file)).size for file in files]
    assert set(sizes) == {(500, 375), (375, 500)}
    # ImageNet's validation split: 6.7 GB for 50,000 files, 133 kB each.
    assert 80e3 < np.mean([len(file) for file in files]) < 140e3

  def test_are_repeatable_and_unlike(self):
    files = made_images.jpegs(3, seed=5)
    assert files == made_images.jpegs(3, seed=5)
    assert files[1] == made_images.jpegs(1, seed=6)[0]
    assert len(set(files)) == 3

  def test_channels_differ(self):
    pixels = np.asarray(PIL.Image.open(io.BytesIO(made_images.jpegs(1)[0])))
    red, _, blue = pixels.astype(float).reshape(-1, 3).T
    assert np.abs(red - blue).mean() > 10


def test_picture_and_figures(tmp_path, capsys):
  runs = _runs(model=[_run(20.0)] * 3)
  found = evaluation.summary(runs) | {
      "what": "tiny", "runs": {
          path: [{"images_per_second": run.images_per_second} for run in each]
          for path, each in runs.items()}}
  evaluation.write(found, tmp_path / "new")
  assert "evaluation.png" in capsys.readouterr().out
  assert json.loads(
      (tmp_path / "new" / "evaluation.json").read_text())["ratio"] == 0.5
  with PIL.Image.open(tmp_path / "new" / "evaluation.png") as image:
    image.load()
    assert image.format == "PNG" and np.ptp(np.asarray(image)) == 255


class TestFiles:

  def test_only_jpegs_in_order_and_not_too_many(self, tmp_path):
    for name in ("b.jpg", "a.JPEG", "notes.txt", "deep/c.jpeg"):
      path = tmp_path / name
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(name.encode())
    assert evaluation.read_files(tmp_path, 9) == [
        b"a.JPEG", b"b.jpg", b"deep/c.jpeg"]
    assert evaluation.read_files(tmp_path, 2) == [b"a.JPEG", b"b.jpg"]

  def test_none(self, tmp_path):
    with pytest.raises(errors.UsageError, match="no JPEG file lies in"):
      evaluation.read_files(tmp_path, 9)
