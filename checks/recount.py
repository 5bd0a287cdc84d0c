"""Counts an evaluation's predictions a second time, row by row.

The figures of an evaluation rest on each example's best classes. Where these
are fewer than they should be, or not the best, or counted wrongly, top-5 is
wrong and nothing else tells: most publishers report top-1 alone. So each row is
held against what else is known of its example, and counted again in plain
Python.

Nothing here imports TensorFlow.
"""

import math

import numpy as np

from checks import predictions as predictions_lib
from checks import report

_TOP = 5
# Of a probability that is kept as float32, and one from the log-likelihood: a
# share of them, as the fifth best is often small, and what float32 cannot hold.
_TOLERANCE, _TINY = 1e-4, 1e-37


def problems(predictions: predictions_lib.Predictions, num_classes: int
             ) -> list[str]:
  """Returns one message for each fault of the predictions.

  Args:
    predictions: Of any number of examples.
    num_classes: How many classes could be predicted: the model's, or as many
      of them as the data set has.
  """
  width = min(_TOP, num_classes)
  if predictions.top.shape[1] != width:
    return [f"{predictions.top.shape[1]} best classes are kept of each "
            f"example; expected {width}"]
  found = []
  hits = [0, 0]  # Of the first, and of all.
  counted = 0
  for i, name in enumerate(predictions.file_names):
    top = predictions.top[i].tolist()
    labels = [c for c in predictions.labels[i].tolist()
              if c != predictions_lib.NO_LABEL]
    fault = _row_fault(top, predictions.probabilities[i].tolist(), labels,
                       float(predictions.nll[i]))
    if fault:
      found.append(f"{name}: {fault}")
    if labels:
      counted += 1
      hits[0] += top[0] in labels
      hits[1] += any(c in labels for c in top)
  for what, rate, correct in (("top-1", predictions.top1, hits[0]),
                              (f"top-{width}", predictions.top5, hits[1])):
    if rate != report.Rate(correct, counted):
      found.append(f"{what} is {rate.correct:,} of {rate.total:,}, but counted "
                   f"by hand it is {correct:,} of {counted:,}")
  return found


def _row_fault(top: list[int], probabilities: list[float], labels: list[int],
               nll: float) -> str | None:
  """Returns what is wrong with one example's row, if anything."""
  if len(set(top)) != len(top):
    return f"a class comes twice among the best, {top}"
  if not (np.diff(probabilities) <= 0).all() or not (
      0 <= probabilities[-1] and sum(probabilities) <= 1 + _TOLERANCE):
    return (f"the best probabilities are {probabilities}; expected them to "
            "descend, and to come to at most 1")
  if not labels:
    return None
  # What the model gave the right class, wherever that is.
  right = math.exp(-nll)
  if labels[0] in top:
    place = top.index(labels[0])
    if abs(probabilities[place] - right) > _TOLERANCE * right + _TINY:
      return (f"the right class has the probability {right:.3g} by the "
              f"log-likelihood, {probabilities[place]:.3g} among the best")
  elif right > probabilities[-1] * (1 + _TOLERANCE) + _TINY:
    return (f"the right class has the probability {right:.3g} and is not "
            f"among the best, of which the last has {probabilities[-1]:.3g}")
  return None
