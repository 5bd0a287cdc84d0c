"""The one way in which times are taken here: calls, processor time, quietness.

Reports, cards and benchmarks all take their figures from it. Nothing but the
standard library is needed: other runtimes' Pythons import it as well.
"""

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Turn:
  """Some calls, one right after the other."""
  wall: tuple[float, ...]  # Seconds of each call.
  cpu: float               # Processor seconds per call, over all threads.
  others: float            # Share of the machine that others used, from 0 to 1.

  @property
  def median(self) -> float:
    """The median call, in seconds."""
    return statistics.median(self.wall)


@dataclasses.dataclass(frozen=True)
class Spread:
  """The middle of some figures, and how far they reach."""
  median: float
  low: float
  high: float


def own_seconds() -> float:
  """Returns the processor time that this process has used."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def busy_seconds(stat: str = "/proc/stat") -> float:
  """Returns the processor time that anybody has used on this machine.

  Args:
    stat: The file to read, in proc(5)'s format.
  """
  # proc(5): user nice system idle iowait irq softirq steal guest guest_nice;
  # guests are counted in user and nice already.
  with open(stat, encoding="ascii") as file:
    ticks = [int(n) for n in file.readline().split()[1:9]]
  return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def others_share(busy: float, own: float, wall: float, cpus: int) -> float:
  """Returns which share of a machine others used, from 0 to 1.

  Args:
    busy: Processor seconds of everybody.
    own: Of them, our own.
    wall: Seconds on the clock meanwhile.
    cpus: Of the machine.
  """
  # The kernel counts whole ticks, so that either may come out a bit too high.
  return min(max((busy - own) / max(wall * cpus, 1e-9), 0.0), 1.0)


def time_calls(call: Callable[[], object], enough: Callable[[int, float], bool],
               clock: Callable[[], float] = time.perf_counter) -> Turn:
  """Calls again and again; returns what it took.

  Args:
    call: Returns when its result is there.
    enough: Takes how many calls were made and the seconds that these took;
      whether that will do. It is asked after each call.
    clock: Seconds.
  """
  own, busy = own_seconds(), busy_seconds()
  wall = []
  start = clock()
  while True:
    begin = clock()
    call()
    end = clock()
    wall.append(end - begin)
    if enough(len(wall), end - start):
      break
  own = own_seconds() - own
  return Turn(tuple(wall), own / len(wall), others_share(
      busy_seconds() - busy, own, end - start, os.cpu_count()))


def tenths(values: Sequence[float]) -> Spread:
  """Returns the median, and what a tenth of the values is below and above."""
  cuts = statistics.quantiles(values, n=10, method="inclusive")
  return Spread(statistics.median(values), cuts[0], cuts[-1])


def quarters(values: Sequence[float]) -> Spread:
  """Returns the median, and what a quarter of the values is below and above."""
  if len(values) == 1:
    return Spread(*values * 3)
  cuts = statistics.quantiles(values, n=4, method="inclusive")
  return Spread(statistics.median(values), cuts[0], cuts[-1])
