"""Tests of the times that a card gives, by a clock of the test's own."""

import sys
import types

import numpy as np
import pytest

from benchmarks import contest
from benchmarks import worker as worker_lib
from checks import latency
from checks import meter
from checks import subject as subject_lib
from hub_export import preprocessing


class _Output:

  def numpy(self):
    return self


class _Model:
  """Takes as many seconds of a made-up clock as it is told for each call."""

  def __init__(self, seconds):
    self.now = 0.0
    self.shapes = []
    self._seconds = iter(seconds)

  def __call__(self, images):
    self.shapes.append(images.shape)
    self.now += next(self._seconds)
    return _Output()


def measured(seconds):
  """Returns what is measured of calls that take so long, and the model."""
  model = _Model(seconds)
  subject = subject_lib.Subject(
      None, {}, "", "", None, 1)
  subject.model = model  # What hub.load would have given.
  subject.preprocessing = preprocessing.Preprocessing(
      (), 40, (0.0,) * 3, (1.0,) * 3)
  return latency.measure(subject, lambda: model.now), model


def test_median_and_tenths_without_the_first_calls():
  # Three to warm up, then 1 to 11 ms fifty times over in any order.
  times = [(1 + i % 11) / 1000 for i in range(55)]
  found, model = measured([9.0, 9.0, 9.0, *times])
  # Fifty of them: five each of 1 to 6 ms, and four or five of the others.
  used = sorted(times[:50])
  assert found["calls"] == 50
  assert found["median_ms"] == pytest.approx(1e3 * used[25], abs=0.6)
  # By linear interpolation between the 50 sorted times: at 4.9 and at 44.1.
  assert found["low_ms"] == pytest.approx(
      1e3 * (used[4] + 0.9 * (used[5] - used[4])), abs=1e-3)
  assert found["high_ms"] == pytest.approx(
      1e3 * (used[44] + 0.1 * (used[45] - used[44])), abs=1e-3)
  assert found["image_size_px"] == 40
  assert set(model.shapes) == {(1, 40, 40, 3)}
  assert len(model.shapes) == 53


@pytest.mark.parametrize("seconds,calls", [
    (0.01, 50), (0.5, 10), (2.0, 5), (30.0, 5)])
def test_slow_modules_are_called_less_often(seconds, calls):
  found, _ = measured([seconds] * 60)
  assert found["calls"] == calls
  assert found["median_ms"] == 1000 * seconds


def test_cards_and_benchmarks_take_their_times_by_one_meter(monkeypatch):
  """What the meter says is what both tell, and nothing else."""
  asked = []

  def time_calls(call, enough, clock=None):
    del enough, clock
    call()
    asked.append(call)
    return meter.Turn((0.002, 0.004, 0.009), 0.5, 0.01)
  monkeypatch.setattr(meter, "time_calls", time_calls)

  card, model = measured([1.0] * 9)
  assert len(asked) == 1 and len(model.shapes) == 4  # Three to warm up.

  calls = []
  monkeypatch.setitem(
      sys.modules, "benchmarks.runtimes.fake", types.SimpleNamespace(
          open_model=lambda task: types.SimpleNamespace(
              versions={}, call=lambda images: lambda: calls.append(1))))
  monkeypatch.setattr(np, "load", lambda path: np.zeros((1, 40, 40, 3)))
  worker = worker_lib.Worker()
  worker.answer({"do": "open", "task": {"runtime": "fake", "mode": "infer"}})
  worker.answer({"do": "ready", "images": "", "labels": ""})
  answer = worker.answer({"do": "time", "seconds": 9.0, "fewest": 3})
  assert len(asked) == 2 and calls
  turn = meter.Turn(tuple(answer["wall"]), answer["cpu"], answer["others"])
  held = contest.Held((contest.Round({"main": turn}),), 0, 0.05)
  benchmark = contest.figures(held, 1)["main"]["wall_ms"]
  assert card["median_ms"] == benchmark["median"] == 4.0
