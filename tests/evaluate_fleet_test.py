"""Tests of the evaluation on many workers, against one that is done here."""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub

from checks import fleet
from checks import predictions as predictions_lib
from hub_export import digits
from hub_export import errors
from tests import tiny_saved_model

_STEM = "optical_digits-test.parquet"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_dir):
  """An output directory with both modules."""
  output_dir = tmp_path_factory.mktemp("exports")
  for kind in ("classifier", "feature_extractor"):
    tiny_saved_model.write(output_dir, data_dir, kind)
  return output_dir


@pytest.fixture
def exports(made, tmp_path):
  """The same, to be written to: classifier and feature extractor."""
  shutil.copytree(made, tmp_path / "exports")
  local = tmp_path / "exports" / "local"
  return [str(local / f"tiny_digits_{kind}" / "1")
          for kind in ("classification", "feature_extractor")]


@pytest.fixture(scope="module")
def expected(made, data_dir):
  """(file name, label, top classes) of all examples, from a plain loop."""
  model = hub.load(str(made / "local" / "tiny_digits_classification" / "1"))
  dataset = digits.prepare(data_dir).as_dataset(split="test")
  rows = []
  for example in dataset.as_numpy_iterator():
    image = tiny_saved_model.PREPROCESSING.apply(
        tf.io.encode_png(example["image"]))
    logits = model(image[None]).numpy()[0]
    rows.append((example["file_name"].decode(), int(example["label"]),
                 np.argsort(-logits)[:5].tolist()))
  return sorted(rows)


@pytest.fixture
def job(data_dir, tmp_path):
  return fleet.Job(dataset=None, split=None, data_dir=str(data_dir),
                   num_shards=3, batch_size=64,
                   summary=str(tmp_path / "summary.json"))


def _rows(path):
  return _rows_of(predictions_lib.read(pathlib.Path(path))[0])


def _rows_of(found):
  return list(zip(found.file_names, found.labels[:, 0].tolist(),
                  found.top.tolist()))


def _evaluation(export):
  return pathlib.Path(f"{export}.evaluations") / _STEM


def _left(export):
  """Returns all that an evaluation has left beside an export."""
  return sorted(p.name for p in pathlib.Path(f"{export}.evaluations").glob("*"))


class TestRun:

  def test_equals_a_plain_loop(self, exports, job, expected, monkeypatch):
    loads = collections.Counter()

    def load(export, batch_size, _load=fleet._load):
      loads[export] += 1
      return _load(export, batch_size)

    monkeypatch.setattr(fleet, "_load", load)
    records = fleet.run(exports, job)
    assert loads == {export: 1 for export in exports}
    top1 = sum(label == top[0] for _, label, top in expected)
    top5 = sum(label in top for _, label, top in expected)
    assert 0 < top1 < top5 <= 360
    for export, record in zip(exports, records):
      assert _rows(_evaluation(export)) == expected
      assert _left(export) == [_STEM]
      assert record["export"] == export
      assert record["error"] is None
      assert record["path"] == str(_evaluation(export))
      assert (record["top1"]["correct"], record["top5"]["correct"],
              record["num_examples"]) == (top1, top5, 360)
    # Features through the last layer predict as the classifier.
    assert records[0]["digest"] == records[1]["digest"]
    assert json.loads(pathlib.Path(job.summary).read_text()) == records

  def test_number_of_shards_changes_nothing(self, exports, job, expected):
    found = []
    for num_shards in (1, 8):
      fleet.run(exports[:1], dataclasses.replace(job, num_shards=num_shards))
      found.append(predictions_lib.read(_evaluation(exports[0])))
      _evaluation(exports[0]).unlink()  # It would be used again.
      assert _rows_of(found[-1][0]) == expected
    (one, about), (many, about_many) = found
    assert about == about_many
    assert (one.digest(), one.data_digest(), one.top1, one.top5) == (
        many.digest(), many.data_digest(), many.top1, many.top5)
    # An image's place in its batch may change the last digits.
    np.testing.assert_allclose(one.margins, many.margins, atol=1e-4)
    np.testing.assert_allclose(one.nll, many.nll, atol=1e-4)

  def test_two_processes(self, exports, job, expected):
    record, = fleet.run(
        exports[:1], job, options=["--direct_running_mode=multi_processing",
                                   "--direct_num_workers=2"])
    assert record["error"] is None
    assert _rows(_evaluation(exports[0])) == expected

  def test_addresses(self, exports, job, expected, tmp_path):
    # TensorFlow reads and writes this scheme like those of object stores.
    addresses = [f"file://{export}" for export in exports]
    job = dataclasses.replace(job, summary=f"file://{job.summary}")
    records = fleet.run(fleet.find(addresses), job)
    assert [r["path"] for r in records] == [
        f"file://{_evaluation(export)}" for export in exports]
    for export in exports:
      assert _rows(_evaluation(export)) == expected

  def test_a_single_process_takes_it_over(self, exports, job, data_dir):
    opened = fleet.evaluation_sets.open("optical_digits", "test", data_dir)
    record, = fleet.run(exports[:1], job)
    model = fleet.evaluation.load(pathlib.Path(exports[0]), job.batch_size)
    done = fleet.evaluation.evaluate(model, opened)
    assert done.reused == 360
    again = fleet.evaluation.evaluate(model, opened, fresh=True)
    assert again.reused == 0
    for found in (done.predictions, again.predictions):
      assert found.digest() == record["digest"]
      assert found.data_digest() == record["data_digest"]
      assert found.top1.to_dict() == record["top1"]

  def test_what_an_interrupted_run_had_done_is_used(
      self, exports, job, data_dir, monkeypatch, expected):
    opened = fleet.evaluation_sets.open("optical_digits", "test", data_dir)
    model = fleet.evaluation.load(pathlib.Path(exports[0]), job.batch_size)
    fleet.evaluation.evaluate(model, opened, shard=(1, 5))
    predicted = []

    def predict(self, images, names, *rest, _predict=type(model).predict):
      predicted.extend(names)
      return _predict(self, images, names, *rest)

    monkeypatch.setattr(fleet.evaluation.Model, "predict", predict)
    record, = fleet.run(exports[:1], job)
    assert len(predicted) == len(set(predicted)) == 360 - 72
    assert _rows(record["path"]) == expected
    assert _left(exports[0]) == [_STEM]


class TestShards:

  def test_more_than_examples(self, exports, job, monkeypatch):
    small = _first_examples(monkeypatch, 4)
    record, = fleet.run(exports[:1], dataclasses.replace(job, num_shards=7))
    assert (record["error"], record["num_examples"]) == (None, 4)
    assert [row[0] for row in _rows(record["path"])] == small

  def test_a_bundle_that_runs_again(self, exports, job, monkeypatch, expected):
    # This one of Beam's runners tries a bundle four times.
    runs = collections.Counter()

    def evaluate(model, shard, of, _evaluate=fleet._evaluate_shard):
      outcome = _evaluate(model, shard, of)
      runs[shard] += 1
      if shard == 1 and runs[shard] < 3:
        raise ConnectionError("the machine is gone")
      return outcome

    monkeypatch.setattr(fleet, "_evaluate_shard", evaluate)
    record, = fleet.run(exports[:1], job, "BundleBasedDirectRunner")
    assert runs[1] >= 3
    assert record["error"] is None
    assert _rows(record["path"]) == expected

  def test_bundles_that_all_run_twice(self, exports, job, expected):
    record, = fleet.run(
        exports[:1], job, options=["--direct_runner_bundle_repeat=1"])
    assert _rows(record["path"]) == expected


class TestFaults:

  def test_one_export_does_not_stop_the_others(self, exports, job, made,
                                               data_dir, tmp_path):
    bad = str(tiny_saved_model.write(
        tmp_path / "bad", data_dir, fault="nan_weights"))
    good, failed = fleet.run([exports[0], bad], job)
    assert good["error"] is None
    assert "3 of 3 shards failed, first: the logits of " in failed["error"]
    assert "path" not in failed
    assert not _evaluation(bad).exists()

  def test_an_export_that_cannot_be_loaded(self, exports, job, tmp_path):
    bad = tmp_path / "bad" / "local" / "tiny" / "1"
    shutil.copytree(exports[0], bad)
    path = bad / "assets.extra" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["preprocessing"]["crop_px"]
    path.write_text(json.dumps(manifest))
    record, = fleet.run([str(bad)], job)
    assert f"{bad} cannot be loaded" in record["error"]

  def test_an_image_that_cannot_be_read(self, exports, job, monkeypatch):
    earlier = _evaluation(exports[0])
    earlier.parent.mkdir()
    earlier.write_bytes(b"of an earlier evaluation")
    _change(monkeypatch, lambda e: e | {
        "image": tf.strings.substr(e["image"], 0, 20)})
    record, = fleet.run(exports[:1], job)
    assert "cannot be decoded" in record["error"]
    assert earlier.read_bytes() == b"of an earlier evaluation"

  def test_anything_else_is_raised(self, exports, job, monkeypatch):
    def evaluate(model, shard, of):
      raise ConnectionError("the machine is gone")

    monkeypatch.setattr(fleet, "_evaluate_shard", evaluate)
    pathlib.Path(job.summary).write_text("[]")
    with pytest.raises(Exception, match="the machine is gone"):
      fleet.run(exports[:1], job)
    assert not _evaluation(exports[0]).exists()
    # That of an earlier run could be taken for this one's.
    assert not os.path.exists(job.summary)

  def test_unknown_option(self, exports, job):
    with pytest.raises(errors.UsageError, match="no option flink_mister"):
      fleet.run(exports, job, options=["--flink_mister=here:8081"])

  def test_unknown_runner(self, exports, job):
    with pytest.raises(errors.UsageError, match="'FlonkRunner'"):
      fleet.run(exports, job, "FlonkRunner")


def _change(monkeypatch, function):
  """Changes every example that is read."""
  kind = fleet.evaluation_sets.EvaluationSet
  examples = kind.examples
  monkeypatch.setattr(kind, "examples",
                      lambda self, shard: examples(self, shard).map(function))


def _first_examples(monkeypatch, n):
  """Makes the split one of its first examples; returns their names."""
  opened = fleet.evaluation_sets.open
  monkeypatch.setattr(
      fleet.evaluation_sets, "open",
      lambda *args: dataclasses.replace(opened(*args), num_examples=n))
  return [f"digit_{5 * i:05d}.png" for i in range(n)]


def _predictions(names):
  n = len(names)
  return predictions_lib.from_logits(
      names, [bytes([i] * 32) for i in range(n)], [[0]] * n,
      np.eye(3, dtype=np.float32)[np.arange(n) % 3])


class TestFinish:
  CONTEXT = {"dataset": "pets", "split": "test", "exports_sha256": ["5a"],
             "classes_sha256": "c0", "runtime": {"device": "a", "onednn": True}}

  def _finish(self, tmp_path, job, outcomes, num_shards=2):
    return fleet.finish(
        (str(tmp_path / "1"), outcomes),
        dataclasses.replace(job, num_shards=num_shards))

  def _outcome(self, shard, names, expected=4, **context):
    return fleet.Outcome(shard, _predictions(names), self.CONTEXT | context,
                         fleet.Split("pets", "test", expected), 3, 1.5)

  def test_counts_by_hand(self, tmp_path, job):
    # Of three classes the first is right, the logits go through them in turn.
    record = self._finish(tmp_path, job, [
        self._outcome(1, ["b"]), self._outcome(0, ["d", "a", "c"])])
    assert (record["top1"]["correct"], record["top1"]["total"]) == (2, 4)
    assert record["top5"]["correct"] == 4
    assert record["seconds"] == 3
    found, about = predictions_lib.read(pathlib.Path(record["path"]))
    assert found.file_names == ("a", "b", "c", "d")
    assert found.top[:, 0].tolist() == [1, 0, 2, 0]
    assert about == self.CONTEXT

  @pytest.mark.parametrize("has_steps", [False, True])
  def test_equal_logits_are_for_few_steps_alone(self, tmp_path, job, has_steps):
    names = [f"{i:02d}" for i in range(40)]
    logits = np.tile(np.eye(3, dtype=np.float32)[0], (40, 1))
    logits[:4] = 1  # A tenth.
    made = predictions_lib.from_logits(
        names, [bytes([i] * 32) for i in range(40)], [[0]] * 40, logits)
    record = self._finish(tmp_path, job, [fleet.Outcome(
        0, made, self.CONTEXT, fleet.Split("pets", "test", 40), 3,
        has_steps=has_steps)], 1)
    assert (record["error"] is None) == has_steps

  def test_a_shard_that_comes_again_counts_once(self, tmp_path, job):
    outcomes = [self._outcome(0, ["a", "b"]), self._outcome(1, ["c", "d"])]
    once = self._finish(tmp_path, job, outcomes)
    again = self._finish(tmp_path, job, outcomes + outcomes[1:])
    assert once == again
    assert once["num_examples"] == 4

  def test_what_another_machine_found_is_kept(self, tmp_path, job):
    for device in ("another", "a"):
      record = self._finish(tmp_path, job, [
          self._outcome(shard, names, runtime={"device": device})
          for shard, names in enumerate((["a", "b"], ["c", "d"]))])
    path = pathlib.Path(record["path"])
    assert predictions_lib.read(path)[1]["runtime"]["device"] == "a"
    assert predictions_lib.read(path.with_suffix(".earlier.parquet"))[1][
        "runtime"]["device"] == "another"

  @pytest.mark.parametrize("second, message", [
      (["c"], "3 examples of pets/test were read; expected 4"),
      (["c", "d", "e"], "5 examples of pets/test were read; expected 4"),
      (["c", "a"], "1 file names of pets/test come more than once")])
  def test_each_example_once(self, tmp_path, job, second, message):
    record = self._finish(tmp_path, job, [
        self._outcome(0, ["a", "b"]), self._outcome(1, second)])
    assert message in record["error"]
    assert not _left(tmp_path / "1")

  def test_a_missing_shard(self, tmp_path, job):
    record = self._finish(tmp_path, job, [
        self._outcome(0, ["a", "b"]), self._outcome(2, ["c", "d"])], 3)
    assert "1 of 3 shards are missing, such as 1" in record["error"]

  def test_an_export_that_changed(self, tmp_path, job):
    record = self._finish(tmp_path, job, [
        self._outcome(0, ["a", "b"]),
        self._outcome(1, ["c", "d"], exports_sha256=["5b"])])
    assert "changed while it was evaluated" in record["error"]

  def test_unlike_machines(self, tmp_path, job):
    record = self._finish(tmp_path, job, [
        self._outcome(0, ["a", "b"]), self._outcome(
            1, ["c", "d"], runtime={"device": "b", "onednn": True})])
    _, about = predictions_lib.read(pathlib.Path(record["path"]))
    assert about["runtime"] == {"device": ["a", "b"], "onednn": True}


def test_models_give_way_to_others(monkeypatch):
  loads = []
  monkeypatch.setattr(
      fleet, "_load", lambda export, _: loads.append(export) or export)
  models = fleet._Models()
  for export in "abbacab":
    assert models.get(export, 64) == export
  assert "".join(loads) == "abcb"


class TestFind:

  def test_patterns(self, exports):
    local = pathlib.Path(exports[0]).parents[1]
    # As reports, cards and evaluations lie beside exports.
    for name in ("1.checks.json", "1.md"):
      (pathlib.Path(exports[0]).parent / name).write_text("")
    (pathlib.Path(exports[0]).parent / "1.evaluations").mkdir()
    assert fleet.find([f"{local}/*/[0-9]*"]) == exports
    assert fleet.find([exports[1] + "/", f"{local}/*/1"]) == exports[::-1]

  def test_none(self, tmp_path, exports):
    with pytest.raises(errors.UsageError, match=r"nothing/\* is no export"):
      fleet.find([exports[0], f"{tmp_path}/nothing/*"])


class TestProgram:

  def _run(self, tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "checks.evaluate_fleet",
         f"--summary={tmp_path}/summary.json", *arguments],
        capture_output=True, text=True, check=False)

  def test_good_and_bad(self, exports, data_dir, tmp_path, expected):
    bad = tiny_saved_model.write(
        tmp_path / "bad", data_dir, fault="nan_weights")
    done = self._run(
        tmp_path, f"--export_dir={exports[0]},{bad}",
        f"--data_dir={data_dir}", "--num_shards=3", "--workers=2")
    top1 = sum(label == top[0] for _, label, top in expected)
    assert done.returncode == 1
    assert f"({top1} of 360)" in done.stdout
    assert "1 of 2 exports evaluated" in done.stdout
    assert "1 of 2 exports could not be evaluated" in done.stderr
    assert "Traceback" not in done.stderr
    assert _rows(_evaluation(exports[0])) == expected

  def test_wrong_usage(self, exports, tmp_path):
    done = self._run(tmp_path, f"--export_dir={exports[0]}",
                     "--runner=FlinkRunner", "--workers=2")
    assert done.returncode == 2
    assert "--workers is for DirectRunner" in done.stderr
