"""Tests of the second count of an evaluation's predictions."""

import dataclasses

import numpy as np
import pytest

from checks import predictions as predictions_lib
from checks import recount
from checks import report

# Seven classes; the right one at rank 1, 2, 5, 6, 1, and none.
LOGITS = np.array([[9, 1, 2, 3, 4, 5, 0], [8, 9, 1, 2, 3, 4, 0],
                   [5, 6, 7, 8, 9, 4, 1], [3, 4, 5, 6, 7, 2, 1],
                   [0, 0, 0, 0, 0, 1, 2], [6, 5, 4, 3, 2, 1, 0]], np.float32)
LABELS = [[0], [0], [0], [5], [6, 1], []]
NAMES = tuple("abcdef")


def predictions(logits=LOGITS, labels=LABELS, allowed=None):
  return predictions_lib.from_logits(
      NAMES, [b"%d" % i for i in range(6)], labels, logits, allowed)


def test_sound():
  found = predictions()
  assert (found.top1, found.top5) == (report.Rate(2, 5), report.Rate(4, 5))
  assert recount.problems(found, 7) == []


def test_masked_classes():
  allowed = np.array([True, True, True, False, False, True, True])
  found = predictions(allowed=allowed)
  assert recount.problems(found, 5) == []
  allowed[2] = False
  assert predictions(allowed=allowed).top.shape == (6, 4)
  assert recount.problems(predictions(allowed=allowed), 4) == []


def _cut(found):
  return dataclasses.replace(found, top=found.top[:, :4],
                             probabilities=found.probabilities[:, :4])


def _swapped(found):
  """The sixth in place of the fifth."""
  top, probabilities = found.top.copy(), found.probabilities.copy()
  order = np.argsort(-LOGITS, kind="stable")[:, 5]
  top[:, 4] = order
  softmax = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
  probabilities[:, 4] = np.take_along_axis(softmax, order[:, None], 1)[:, 0]
  return dataclasses.replace(found, top=top, probabilities=probabilities)


def _without_best(found):
  rolled = predictions(np.where(LOGITS == LOGITS.max(1, keepdims=True), -9,
                                LOGITS))
  return dataclasses.replace(found, top=rolled.top)


@pytest.mark.parametrize("fault, message", [
    (_cut, "4 best classes are kept of each example; expected 5"),
    (_swapped, "c: the right class has the probability 0.0116 and is not "
     "among the best, of which the last has 0.00427"),
    (_without_best, "a: the right class has the probability"),
    (lambda p: dataclasses.replace(p, top=p.top[:, [0, 0, 1, 2, 3]]),
     "a: a class comes twice among the best, [0, 0, 5, 4, 3]"),
    (lambda p: dataclasses.replace(p, probabilities=p.probabilities[:, ::-1]),
     "expected them to descend"),
    (lambda p: dataclasses.replace(p, probabilities=p.probabilities * 1.5),
     "to come to at most 1"),
    (lambda p: dataclasses.replace(p, labels=(p.labels + 1) % 7),
     "by the log-likelihood"),
    (lambda p: dataclasses.replace(p, nll=p.nll + 0.1),
     "by the log-likelihood"),
])
def test_fault(fault, message):
  assert message in "\n".join(recount.problems(fault(predictions()), 7))


@pytest.mark.parametrize("scale", [5, 20, 200])
def test_of_a_network_that_is_sure(scale):
  """Its fifth best has next to no probability, and counts all the same."""
  found = predictions(scale * LOGITS)
  assert recount.problems(found, 7) == []
  top = found.top.copy()
  top[:, 4] = np.argsort(-LOGITS, kind="stable")[:, 5]
  problems = recount.problems(dataclasses.replace(
      found, top=top, probabilities=found.probabilities * np.float32(
          [1, 1, 1, 1, 1e-3])), 7)
  # Below what float32 holds, nothing is known.
  assert any(p.startswith("c: the right class") for p in problems) == (
      scale < 200)


def test_a_right_class_of_next_to_no_probability():
  """Twice of nearly nothing is not it."""
  found = predictions(5 * LOGITS)
  assert found.probabilities[2, 4] < 1e-8  # Below any absolute tolerance.
  assert recount.problems(dataclasses.replace(
      found, probabilities=found.probabilities * np.float32(
          [1, 1, 1, 1, 2])), 7)[0].startswith(
              "c: the right class has the probability")


@pytest.mark.parametrize("name, rate, message", [
    ("top5", lambda p: report.Rate(int(p.hits[:, :4].any(1).sum()), 5),
     "top-5 is 3 of 5, but counted by hand it is 4 of 5"),
    ("top5", lambda p: report.Rate(4, 6),
     "top-5 is 4 of 6, but counted by hand it is 4 of 5"),
    ("top1", lambda p: report.Rate(int(p.hits[:, 1].sum()), 5),
     "top-1 is 1 of 5, but counted by hand it is 2 of 5"),
])
def test_wrong_count(monkeypatch, name, rate, message):
  monkeypatch.setattr(predictions_lib.Predictions, name, property(rate))
  assert recount.problems(predictions(), 7) == [message]
