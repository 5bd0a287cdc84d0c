"""Rounds of turns, which of them count, and what follows from them.

All contestants have one turn in each round, one after the other, so that a
machine that slows down slows all of them; ratios are taken within rounds.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from checks import meter


@dataclasses.dataclass(frozen=True)
class Round:
  """One turn of each contestant."""
  turns: Mapping[str, meter.Turn]

  @property
  def others(self) -> float:
    """The largest share of the machine that others used in a turn."""
    return max(turn.others for turn in self.turns.values())


@dataclasses.dataclass(frozen=True)
class Held:
  """The rounds that count, and how quiet it was."""
  rounds: tuple[Round, ...]
  thrown_away: int      # As others used too much of the machine.
  max_others: float     # The most that they may use, from 0 to 1.

  @property
  def others(self) -> float:
    """The largest share of the machine that others used in what counts."""
    return max(r.others for r in self.rounds)

  @property
  def is_quiet(self) -> bool:
    return self.others <= self.max_others


def hold(turns: Mapping[str, Callable[[], meter.Turn]], wanted: int, spare: int,
         max_others: float, on_round: Callable[[], None] = lambda: None
         ) -> Held:
  """Holds rounds until enough were quiet.

  If too few were, the least disturbed ones count as well: the result says so.

  Args:
    turns: Name to what takes one turn.
    wanted: How many rounds are to count.
    spare: How many more may be held to have so many quiet ones.
    max_others: The share of the machine, from 0 to 1, that others may use.
    on_round: Called after each round.
  """
  names = list(turns)
  quiet, disturbed = [], []
  while len(quiet) < wanted and len(quiet) + len(disturbed) < wanted + spare:
    # Each round begins with another one, so that none always comes first.
    first = (len(quiet) + len(disturbed)) % len(names)
    order = names[first:] + names[:first]
    held = Round({name: turns[name]() for name in order})
    (quiet if held.others <= max_others else disturbed).append(held)
    on_round()
  fill = sorted(disturbed, key=lambda r: r.others)[:wanted - len(quiet)]
  return Held((*quiet, *fill), len(disturbed) - len(fill), max_others)


def figures(held: Held, images: int) -> dict[str, dict[str, Any]]:
  """Returns {name: {"wall_ms", "cpu_ms"}}, each of one image.

  Args:
    held: The rounds.
    images: In one call.

  Returns:
    Spreads as dicts: medians of the rounds' medians, and quartiles.
  """
  per_image = 1e3 / images
  return {name: {
      "wall_ms": dataclasses.asdict(meter.quarters(
          [r.turns[name].median * per_image for r in held.rounds])),
      "cpu_ms": dataclasses.asdict(meter.quarters(
          [r.turns[name].cpu * per_image for r in held.rounds])),
  } for name in held.rounds[0].turns}


def ratio(held: Held, ours: str, theirs: str) -> dict[str, Any]:
  """Returns how ours compares, by wall and by processor time.

  Returns:
    {"wall", "cpu"}: each the median of the rounds' ratios, and quartiles.
  """
  def spread(figure: Callable[[meter.Turn], float]) -> dict[str, float]:
    return dataclasses.asdict(meter.quarters(
        [figure(r.turns[ours]) / max(figure(r.turns[theirs]), 1e-12)
         for r in held.rounds]))
  return {"wall": spread(lambda turn: turn.median),
          "cpu": spread(lambda turn: turn.cpu)}


def exponent(sizes: Sequence[float], costs: Sequence[float]
             ) -> dict[str, float]:
  """Returns p of costs ~ sizes ** p, by least squares of the logarithms.

  Returns:
    {"exponent", "error"}: the latter one standard error, 0 for two points.

  Raises:
    StatisticsError: for fewer than two sizes, or equal ones.
  """
  x, y = [math.log(v) for v in sizes], [math.log(v) for v in costs]
  slope, intercept = statistics.linear_regression(x, y)
  left = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y))
  spread = sum((a - statistics.fmean(x)) ** 2 for a in x)
  error = math.sqrt(left / (len(x) - 2) / spread) if len(x) > 2 else 0.0
  return {"exponent": slope, "error": error}
