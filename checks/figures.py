"""The figures of an evaluation, from the predictions on every example.

Counts are sums of integers over examples; only the average over classes is a
mean of rates, which is what it is for.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from checks import predictions as predictions_lib
from checks import report
from hub_export import errors

NUM_BINS = 15  # Of the expected calibration error, as Guo et al. have it.
_LISTED = 10   # Classes and confusions that a report names.


@dataclasses.dataclass(frozen=True)
class Bin:
  """The examples whose top-1 probability is above `low`, up to `high`."""
  low: float             # Percent.
  high: float            # Percent.
  count: int
  correct: int
  probability_sum: float  # Of the top-1 probabilities, each in [0, 1].

  @property
  def accuracy(self) -> float | None:
    """Percent; None without an example."""
    return 100 * self.correct / self.count if self.count else None

  @property
  def confidence(self) -> float | None:
    """Mean top-1 probability in percent; None without an example."""
    return 100 * self.probability_sum / self.count if self.count else None

  def to_dict(self) -> dict[str, float | int | None]:
    return {"low": self.low, "high": self.high, "count": self.count,
            "accuracy": self.accuracy, "confidence": self.confidence}


@dataclasses.dataclass(frozen=True)
class ClassRate:
  """How many of a class's examples were right."""
  index: int  # The model's.
  name: str
  correct: int
  total: int  # At least 1.

  def to_dict(self) -> dict[str, int | str]:
    return {"class": self.index, "name": self.name, "correct": self.correct,
            "total": self.total}


@dataclasses.dataclass(frozen=True)
class Confusion:
  """How often one class was taken for another one."""
  label: int
  predicted: int
  count: int


@dataclasses.dataclass(frozen=True, eq=False)
class Figures:
  """What an evaluation comes to. Examples without a label do not count."""
  class_names: tuple[str, ...]        # The model's, in label order.
  top1: report.Rate
  top5: report.Rate
  nll: float                          # Mean negative log-likelihood, in nats.
  bins: tuple[Bin, ...]               # NUM_BINS of equal width, ascending.
  correct: np.ndarray                 # int64 [classes].
  total: np.ndarray                   # int64 [classes]; by the first label.
  confusions: tuple[Confusion, ...]   # All, the most frequent first.

  @property
  def ece(self) -> float:
    """Expected calibration error in percent.

    Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks
    (2017), arXiv:1706.04599, equation 3.
    """
    return 100 * math.fsum(abs(b.correct - b.probability_sum)
                           for b in self.bins) / self.top1.total

  @property
  def mean_confidence(self) -> float:
    """Mean top-1 probability in percent."""
    return 100 * math.fsum(
        b.probability_sum for b in self.bins) / self.top1.total

  @property
  def classes(self) -> list[ClassRate]:
    """Those that have examples, in label order."""
    return [ClassRate(i, self.class_names[i], int(self.correct[i]),
                      int(self.total[i]))
            for i in np.flatnonzero(self.total).tolist()]

  @property
  def mean_class_top1(self) -> float:
    """Percent, averaged over the classes that have examples."""
    found = self.classes
    return 100 * math.fsum(c.correct / c.total for c in found) / len(found)

  @property
  def worst(self) -> list[ClassRate]:
    """At most 10 classes; of equal rates that with more examples is first."""
    return sorted(self.classes, key=lambda c: (
        c.correct / c.total, -c.total, c.index))[:_LISTED]

  @property
  def best(self) -> list[ClassRate]:
    """At most 10 classes; of equal rates that with more examples is first."""
    return sorted(self.classes, key=lambda c: (
        -c.correct / c.total, -c.total, c.index))[:_LISTED]

  def to_dict(self) -> dict[str, Any]:
    """Returns what a report has: finite numbers, rates in percent."""
    return {
        "top1": self.top1.to_dict(),
        "top5": self.top5.to_dict(),
        "nll": self.nll,
        "ece": self.ece,
        "mean_confidence": self.mean_confidence,
        "reliability": [b.to_dict() for b in self.bins],
        "classes": {
            "count": int((self.total > 0).sum()),
            "mean_top1": self.mean_class_top1,
            "worst": [c.to_dict() for c in self.worst],
            "best": [c.to_dict() for c in self.best]},
        "confusions": [
            {"label": c.label, "predicted": c.predicted,
             "label_name": self.class_names[c.label],
             "predicted_name": self.class_names[c.predicted],
             "count": c.count} for c in self.confusions[:_LISTED]],
    }


def figures(predictions: predictions_lib.Predictions,
            class_names: Sequence[str]) -> Figures:
  """Returns the figures of an evaluation.

  An example is right if the predicted class is any of its labels. It belongs
  to the class of its first one.

  Args:
    predictions: Of every example, in any order.
    class_names: The model's, in label order.

  Raises:
    HubExportError: if no example has a label, a probability or likelihood is
      no finite number, or a class has no name.
  """
  counted = predictions.rows(predictions.has_label)
  if not len(counted):
    raise errors.HubExportError(
        f"none of {len(predictions)} examples has a label; expected some, or "
        "there is nothing to count. Evaluate on a split with labels.")
  first = counted.labels[:, 0].astype(np.int64)
  predicted = counted.top[:, 0].astype(np.int64)
  _check(counted, first, predicted, len(class_names))
  right = counted.hits[:, 0]
  pairs = collections.Counter(
      zip(first[~right].tolist(), predicted[~right].tolist()))
  count = len(class_names)
  return Figures(
      class_names=tuple(class_names), top1=counted.top1, top5=counted.top5,
      nll=math.fsum(counted.nll.tolist()) / len(counted),
      bins=_bins(counted.probabilities[:, 0].astype(np.float64), right),
      correct=np.bincount(first[right], minlength=count),
      total=np.bincount(first, minlength=count),
      confusions=tuple(
          Confusion(label, other, times) for (label, other), times in
          sorted(pairs.items(), key=lambda item: (-item[1], item[0]))))


def _check(counted: predictions_lib.Predictions, first: np.ndarray,
           predicted: np.ndarray, num_classes: int) -> None:
  """Raises HubExportError if what is to be counted is not sound."""
  finite = (np.isfinite(counted.nll)
            & np.isfinite(counted.probabilities[:, 0]))
  if not finite.all():
    raise errors.HubExportError(
        f"the likelihood of {counted.file_names[int(finite.argmin())]} is not "
        "finite; expected a label that the model has among its classes, and "
        "finite logits")
  known = [0 <= int(c) < num_classes for c in
           (first.min(), first.max(), predicted.min(), predicted.max())]
  if not all(known):
    raise errors.HubExportError(
        f"labels from {first.min()} to {first.max()} and predictions from "
        f"{predicted.min()} to {predicted.max()}; expected numbers of the "
        f"{num_classes} named classes. Evaluate again with this export.")


def _bins(probabilities: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
  """Returns the bins of float64 [n] in [0, 1], by whether each is right."""
  edges = np.arange(NUM_BINS + 1) / NUM_BINS
  # A bin holds its upper edge, the lowest one 0 as well.
  number = np.clip(np.searchsorted(edges, probabilities, side="left") - 1,
                   0, NUM_BINS - 1)
  return tuple(
      Bin(100 * i / NUM_BINS, 100 * (i + 1) / NUM_BINS,
          int((number == i).sum()), int(right[number == i].sum()),
          math.fsum(probabilities[number == i].tolist()))
      for i in range(NUM_BINS))
