"""Two evaluations on the same examples, compared pairwise.

Two models on the same images agree on most of them, so what differs tells far
more than two accuracies with their intervals do. Q. McNemar, Note on the
sampling error of the difference between correlated proportions or percentages,
Psychometrika 12 (1947).

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from checks import predictions as predictions_lib
from checks import report
from hub_export import errors

_Z = 1.959963984540054  # The normal distribution's 97.5 % quantile.


@dataclasses.dataclass(frozen=True)
class Flip:
  """An example of which two models predict different classes."""
  file_name: str
  labels: tuple[int, ...]  # The right classes; may be none.
  a: int                   # The class that A predicts.
  b: int
  a_is_right: bool         # False without a label.
  b_is_right: bool
  a_margin: float          # Best less second best logit, in standard
  b_margin: float          # deviations of the example's logits.
  a_probability: float     # Of the class that A predicts, in [0, 1].
  b_probability: float

  @property
  def margin(self) -> float:
    """How clear a flip it is: the smaller margin of the two.

    Rounding flips only examples that one of the models nearly tied on; a flip
    with both margins large is a difference of the models.
    """
    return min(self.a_margin, self.b_margin)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How two models, A and B, did on the same examples."""
  num_examples: int        # All; those without a label count only for flips.
  both_right: int
  only_a: int              # A is right, B is wrong.
  only_b: int
  both_wrong: int
  flips: tuple[Flip, ...]  # The largest margin first, then by file name.

  @property
  def total(self) -> int:
    """How many examples have a label."""
    return self.both_right + self.only_a + self.only_b + self.both_wrong

  @property
  def top1(self) -> tuple[report.Rate, report.Rate]:
    """Of A and of B."""
    return (report.Rate(self.both_right + self.only_a, self.total),
            report.Rate(self.both_right + self.only_b, self.total))

  @property
  def difference(self) -> float:
    """Top-1 of B less that of A, in percentage points."""
    return 100 * (self.only_b - self.only_a) / self.total

  @property
  def error(self) -> float:
    """Standard error of the difference, in percentage points.

    sqrt(b + c) / n, for models that are equally good.
    """
    return 100 * math.sqrt(self.only_a + self.only_b) / self.total

  @property
  def interval(self) -> tuple[float, float]:
    """95 % interval of the difference, in percentage points."""
    return (max(-100.0, self.difference - _Z * self.error),
            min(100.0, self.difference + _Z * self.error))

  @property
  def p_value(self) -> float:
    """Of McNemar's exact test, two-sided."""
    return mcnemar(self.only_a, self.only_b)


def compare(a: predictions_lib.Predictions, b: predictions_lib.Predictions
            ) -> Comparison:
  """Returns how two models did on the same examples.

  Args:
    a: Predictions in any order.
    b: Predictions on the same examples, in any order.

  Raises:
    HubExportError: if they are not of the same examples with the same labels,
      or no example has a label.
  """
  order_a, order_b = _join(a, b)
  a, b = a.rows(order_a), b.rows(order_b)
  labels = [_labels(row) for row in a.labels]
  others = [_labels(row) for row in b.labels]
  if labels != others:
    unlike = [i for i, row in enumerate(labels) if row != others[i]]
    first = unlike[0]
    raise errors.HubExportError(
        f"the labels of {len(unlike)} examples differ, such as of "
        f"{a.file_names[first]} ({labels[first]} and {others[first]}); "
        "expected models that number the same classes alike. Compare models "
        "with the same labels.")
  has_label = a.has_label
  if not has_label.any():
    raise errors.HubExportError(
        f"none of {len(a)} examples has a label; expected some, or there is "
        "nothing to compare. Evaluate on a split with labels.")
  right_a, right_b = a.hits[:, 0], b.hits[:, 0]
  flips = [
      Flip(a.file_names[i], tuple(labels[i]), int(a.top[i, 0]),
           int(b.top[i, 0]), bool(right_a[i]), bool(right_b[i]),
           float(a.margins[i]), float(b.margins[i]),
           float(a.probabilities[i, 0]), float(b.probabilities[i, 0]))
      for i in np.flatnonzero(a.top[:, 0] != b.top[:, 0]).tolist()]
  return Comparison(
      num_examples=len(a),
      both_right=int((right_a & right_b).sum()),
      only_a=int((right_a & ~right_b).sum()),
      only_b=int((right_b & ~right_a).sum()),
      both_wrong=int((has_label & ~right_a & ~right_b).sum()),
      flips=tuple(sorted(flips, key=lambda f: (-f.margin, f.file_name))))


def mcnemar(only_a: int, only_b: int) -> float:
  """Returns the p-value of McNemar's exact test, two-sided.

  Were the models equally good, each example that just one of them gets right
  would be a fair coin's throw. It is the probability of a split of them that
  is at least as uneven: exact, in integers.

  Args:
    only_a: Examples that A is right on and B is wrong on.
    only_b: Examples that B is right on and A is wrong on.
  """
  n, fewer = only_a + only_b, min(only_a, only_b)
  term = tail = 1  # C(n, 0), and the sum of C(n, k) over k up to `fewer`.
  for k in range(fewer):
    term = term * (n - k) // (k + 1)
    tail += term
  return min(1.0, 2 * tail / (1 << n))


def sentence(compared: Comparison) -> str:
  """Returns what McNemar's test says, for people."""
  more = compared.only_b - compared.only_a
  p = spoken_p(compared.p_value)
  if not compared.only_a + compared.only_b:
    return ("A and B are right on the very same examples: nothing tells them "
            "apart.")
  if not more:
    return (f"Each is right on {compared.only_a:,} that the other is wrong on: "
            "no sign that one is better.")
  what = (f"{'B' if more > 0 else 'A'} is right on {abs(more):,} more of "
          f"{compared.total:,} examples. Were they equally good, a difference "
          f"as large would come up by chance with a probability of {p}: ")
  if compared.p_value < 0.05:
    return what + f"{'B' if more > 0 else 'A'} is better on such images."
  return what + "no sign that one is better."


def spoken_p(p: float) -> str:
  """Returns a probability to two digits, and never as if it were 0."""
  if p < 1e-12:
    return "less than 1e-12"
  return f"{p:.2g}" if p < 0.995 else "1"


def _join(a: predictions_lib.Predictions, b: predictions_lib.Predictions
          ) -> tuple[list[int], list[int]]:
  """Returns the orders that bring the same example to the same place.

  Raises:
    HubExportError: if they are not of the same examples, each once.
  """
  places = []
  for name, found in (("A", a), ("B", b)):
    table = {file_name: i for i, file_name in enumerate(found.file_names)}
    if len(table) != len(found):
      raise errors.HubExportError(
          f"{name} has {len(found) - len(table)} examples more than once; "
          "expected every file name once. Evaluate it again.")
    places.append(table)
  table_a, table_b = places
  only_a = sorted(set(table_a) - set(table_b))
  only_b = sorted(set(table_b) - set(table_a))
  names = sorted(set(table_a) & set(table_b))
  changed = [name for name in names if a.example_sha256[table_a[name]]
             != b.example_sha256[table_b[name]]]
  problems = [
      f"{len(found):,} {what}, such as {found[0]}" for found, what in (
          (only_a, "only in A"), (only_b, "only in B"),
          (changed, "with another image or label in B")) if found]
  if problems:
    raise errors.HubExportError(
        f"A and B are not of the same data: of {len(a):,} and {len(b):,} "
        f"examples there are {'; '.join(problems)}. Expected the same split "
        "of the same data set. Evaluate both on it.")
  return [table_a[name] for name in names], [table_b[name] for name in names]


def _labels(row: np.ndarray) -> list[int]:
  return [c for c in row.tolist() if c != predictions_lib.NO_LABEL]
