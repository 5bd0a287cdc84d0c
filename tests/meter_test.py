"""Tests of how times are taken, by clocks of the test's own."""

import os

import numpy as np
import pytest

from checks import meter


class _Clock:

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def _timed(seconds, enough):
  clock, left = _Clock(), iter(seconds)

  def call():
    clock.now += next(left)
  return meter.time_calls(call, enough, clock)


def test_each_call_is_timed_until_there_are_enough():
  turn = _timed([0.5, 0.25, 2.0, 9.0], lambda calls, seconds: calls == 3)
  assert turn.wall == (0.5, 0.25, 2.0)
  assert turn.median == 0.5


def test_seconds_are_those_of_all_calls():
  asked = []

  def enough(calls, seconds):
    asked.append((calls, seconds))
    return seconds >= 1
  assert len(_timed([0.5, 0.25, 0.5, 9.0], enough).wall) == 3
  assert asked == [(1, 0.5), (2, 0.75), (3, 1.25)]


def test_processor_time_is_of_one_call():
  data = np.ones(2000)

  def work():
    for _ in range(5000):
      data.sum()
  before = meter.own_seconds()
  turn = meter.time_calls(work, lambda calls, seconds: calls == 5)
  used = meter.own_seconds() - before
  assert used > 0.02
  assert turn.cpu == pytest.approx(used / 5, rel=0.2)
  assert 0 <= turn.others <= 1


@pytest.mark.parametrize("busy, own, wall, cpus, share", [
    (3.0, 2.0, 1.0, 4, 0.25),   # 1 s of others in 4 s of processors.
    (2.0, 2.0, 1.0, 4, 0.0),
    (1.99, 2.0, 1.0, 4, 0.0),   # The kernel's ticks are coarse.
    (9.0, 0.0, 1.0, 4, 1.0),
    (0.0, 0.0, 0.0, 4, 0.0)])
def test_others_share(busy, own, wall, cpus, share):
  assert meter.others_share(busy, own, wall, cpus) == pytest.approx(share)


def test_busy_is_all_but_idle_and_waiting(tmp_path):
  """proc(5): user nice system idle iowait irq softirq steal guest ..."""
  path = tmp_path / "stat"
  path.write_text("cpu  100 20 30 5000 600 7 8 9 40 50\ncpu0 1 1 1 1\n")
  tick = os.sysconf("SC_CLK_TCK")
  # Guests are in user and nice already.
  assert meter.busy_seconds(str(path)) == (100 + 20 + 30 + 7 + 8 + 9) / tick


def test_tenths_and_quarters():
  values = list(range(101))
  assert meter.tenths(values) == meter.Spread(50, 10, 90)
  assert meter.quarters(values) == meter.Spread(50, 25, 75)
  assert meter.quarters([3.0]) == meter.Spread(3.0, 3.0, 3.0)
