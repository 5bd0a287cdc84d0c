"""Tests of figures: small cases by hand, random ones against plain Python."""

import dataclasses
import json
import math

import numpy as np
import pytest

from checks import figures
from checks import report
from hub_export import errors
from tests import tiny_predictions

_NAMES = ("ant", "bee", "cat", "dog")


def _small():
  """Eight examples: 4 right at once, 6 within the top 2."""
  return tiny_predictions.of(
      #        right  right  right  wrong  wrong  wrong  right  wrong
      labels=[[0],   [0],   [1],   [1],   [1],   [2],   [2],   [0]],
      top=[[0, 1],   [0, 2], [1, 0], [0, 1], [0, 2], [1, 2], [2, 0], [3, 1]],
      probabilities=[0.9, 0.95, 0.5, 0.5, 0.7, 0.3, 1.0, 0.4],
      nll=[0.1, 0.05, 0.7, 0.75, 2.0, 1.5, 0.0, 3.0])


class TestSmall:

  @pytest.fixture(name="found")
  def _found(self):
    return figures.figures(_small(), _NAMES)

  def test_rates(self, found):
    assert found.top1 == report.Rate(4, 8)
    # Of the top 2 that there are: 0, 1, 2, 3, 5 and 6.
    assert found.top5 == report.Rate(6, 8)

  def test_nll_is_the_mean(self, found):
    assert found.nll == pytest.approx(8.1 / 8, abs=1e-7)  # float32 inputs.

  def test_mean_confidence(self, found):
    assert found.mean_confidence == pytest.approx(100 * 5.25 / 8, abs=1e-5)

  def test_calibration_error(self, found):
    # Bins of 1/15: 0.3 -> 4 (0.267 to 0.333), 0.4 -> 5 or 6 by float32's
    # rounding (0.4 is their edge), 0.5 twice -> 7, 0.7 -> 10, 0.9 -> 13,
    # 0.95 and 1.0 -> 14. |right - confidence|: 0.3, 0.4, |1 - 1| = 0, 0.7,
    # |1 - 0.9| = 0.1, |2 - 1.95| = 0.05.
    assert found.ece == pytest.approx(
        100 * (0.3 + 0.4 + 0 + 0.7 + 0.1 + 0.05) / 8, abs=1e-5)

  def test_bins(self, found):
    counts = {i: b.count for i, b in enumerate(found.bins) if b.count}
    assert len(found.bins) == 15
    assert {i: n for i, n in counts.items() if i not in (5, 6)} == {
        4: 1, 7: 2, 10: 1, 13: 1, 14: 2}
    half = found.bins[7]
    assert (half.low, half.high) == (pytest.approx(700 / 15),
                                     pytest.approx(800 / 15))
    assert (half.accuracy, half.confidence) == (50, 50)
    assert found.bins[0].accuracy is found.bins[0].confidence is None

  def test_classes(self, found):
    assert [(c.name, c.correct, c.total) for c in found.classes] == [
        ("ant", 2, 3), ("bee", 1, 3), ("cat", 1, 2)]
    assert [c.name for c in found.worst] == ["bee", "cat", "ant"]
    assert [c.name for c in found.best] == ["ant", "cat", "bee"]
    # 2/3, 1/3 and 1/2; "dog" has no example.
    assert found.mean_class_top1 == pytest.approx(50)

  def test_confusions(self, found):
    assert found.confusions == (
        figures.Confusion(1, 0, 2), figures.Confusion(0, 3, 1),
        figures.Confusion(2, 1, 1))

  def test_record(self, found):
    record = found.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["top1"] == report.Rate(4, 8).to_dict()
    assert record["top5"]["correct"] == 6
    assert len(record["reliability"]) == 15
    assert record["reliability"][0] == {
        "low": 0, "high": pytest.approx(100 / 15), "count": 0,
        "accuracy": None, "confidence": None}
    assert record["classes"]["count"] == 3
    assert record["classes"]["worst"][0] == {
        "class": 1, "name": "bee", "correct": 1, "total": 3}
    assert record["confusions"][0] == {
        "label": 1, "predicted": 0, "label_name": "bee",
        "predicted_name": "ant", "count": 2}


class TestBins:

  @pytest.mark.parametrize("probability, index", [
      (0.0, 0), (1e-9, 0), (np.nextafter(np.float32(0.2), 0), 2), (0.21, 3),
      (0.999, 14), (1.0, 14)])
  def test_edges(self, probability, index):
    found = figures.figures(tiny_predictions.of(
        [[0]], [[0, 1]], [float(probability)]), _NAMES)
    assert [i for i, b in enumerate(found.bins) if b.count] == [index]

  def test_an_upper_edge_belongs_to_its_bin(self):
    # 3 * 5 / 15: the one edge but 0 and 1 that float32 could hold is none, so
    # the edge itself is given in float64.
    bins = figures._bins(  # pylint: disable=protected-access
        np.array([1 / 15, np.nextafter(1 / 15, 1)]), np.array([True, False]))
    assert [(b.count, b.correct) for b in bins[:3]] == [(1, 1), (1, 0), (0, 0)]


class TestLabels:

  def test_any_label_is_right_and_the_first_one_is_the_class(self):
    found = figures.figures(tiny_predictions.of(
        [[0, 2], [0, 1], [3]], [[2, 1], [3, 1], [0, 1]]), _NAMES)
    assert found.top1 == report.Rate(1, 3)
    assert found.top5 == report.Rate(2, 3)
    assert found.correct.tolist() == [1, 0, 0, 0]
    assert found.total.tolist() == [2, 0, 0, 1]
    assert found.confusions == (
        figures.Confusion(0, 3, 1), figures.Confusion(3, 0, 1))

  def test_examples_without_a_label_do_not_count(self):
    found = figures.figures(tiny_predictions.of(
        [[], [1], []], [[0], [1], [1]], [0.2, 0.6, 0.9], nll=[5, 0.5, 5]),
                            _NAMES)
    assert found.top1 == report.Rate(1, 1)
    assert found.nll == 0.5
    assert found.mean_confidence == pytest.approx(60, abs=1e-5)
    assert sum(b.count for b in found.bins) == 1

  def test_none_has_a_label(self):
    with pytest.raises(errors.HubExportError, match="none of 2 examples has"):
      figures.figures(tiny_predictions.of([[], []], [[0], [1]]), _NAMES)


class TestTies:

  def test_equal_rates(self):
    # ant 1 of 2, bee 2 of 4, cat 1 of 2: more examples first, then the number.
    labels = [0, 0, 1, 1, 1, 1, 2, 2]
    right = [1, 0, 1, 1, 0, 0, 1, 0]
    found = figures.figures(tiny_predictions.of(
        [[c] for c in labels],
        [[c if r else 3] for c, r in zip(labels, right)]), _NAMES)
    assert [c.name for c in found.worst] == ["bee", "ant", "cat"]
    assert [c.name for c in found.best] == ["bee", "ant", "cat"]
    assert [(c.label, c.count) for c in found.confusions] == [
        (1, 2), (0, 1), (2, 1)]

  def test_the_order_of_examples_does_not_matter(self):
    predictions = tiny_predictions.random(200, 12, seed=3)
    shuffled = predictions.rows(np.random.default_rng(0).permutation(200))
    assert (figures.figures(shuffled, list("abcdefghijkl")).to_dict()
            == figures.figures(predictions, list("abcdefghijkl")).to_dict())


class TestRefusals:

  @pytest.mark.parametrize("field", ["nll", "probabilities"])
  @pytest.mark.parametrize("value", [np.nan, np.inf])
  def test_what_is_not_finite(self, field, value):
    predictions = _small()
    changed = getattr(predictions, field).copy()
    changed[2] = value
    with pytest.raises(errors.HubExportError, match="of 0002.png is not fin"):
      figures.figures(
          dataclasses.replace(predictions, **{field: changed}), _NAMES)

  def test_classes_without_a_name(self):
    with pytest.raises(errors.HubExportError,
                       match="predictions from 0 to 3; expected numbers of "
                       "the 3 named"):
      figures.figures(_small(), _NAMES[:3])


@pytest.mark.parametrize("n, classes, multi_label", [
    (400, 4, False), (300, 30, True), (37, 3, True), (1, 5, False)])
def test_against_plain_python(n, classes, multi_label):
  predictions = tiny_predictions.random(n, classes, n, multi_label)
  names = [f"class {i}" for i in range(classes)]
  right = wrong = within = nll = confidence = 0
  bins = [[0, 0, 0.0] for _ in range(15)]
  by_class, pairs = {}, {}
  for i in range(n):
    labels = [c for c in predictions.labels[i].tolist() if c >= 0]
    if not labels:
      continue
    top = predictions.top[i].tolist()
    p = float(predictions.probabilities[i, 0])
    hit = top[0] in labels
    right, wrong = right + hit, wrong + (not hit)
    within += bool(set(top) & set(labels))
    nll += float(predictions.nll[i])
    confidence += p
    number = next(b for b in range(15) if p <= (b + 1) / 15 or b == 14)
    bins[number][0] += 1
    bins[number][1] += hit
    bins[number][2] += p
    correct, total = by_class.get(labels[0], (0, 0))
    by_class[labels[0]] = correct + hit, total + 1
    if not hit:
      pair = labels[0], top[0]
      pairs[pair] = pairs.get(pair, 0) + 1
  total = right + wrong
  found = figures.figures(predictions, names)
  record = found.to_dict()
  assert found.top1 == report.Rate(right, total)
  assert found.top5 == report.Rate(within, total)
  assert math.isclose(found.nll, nll / total, rel_tol=1e-9)
  assert math.isclose(found.mean_confidence, 100 * confidence / total)
  assert [b.count for b in found.bins] == [b[0] for b in bins]
  assert math.isclose(found.ece, 100 * sum(
      b[0] / total * abs(b[1] / b[0] - b[2] / b[0]) for b in bins if b[0]),
                      abs_tol=1e-9)
  assert {c.index: (c.correct, c.total) for c in found.classes} == by_class
  assert math.isclose(record["classes"]["mean_top1"], 100 * sum(
      c / t for c, t in by_class.values()) / len(by_class))
  assert {(c.label, c.predicted): c.count for c in found.confusions} == pairs
  rates = [c / t for c, t in by_class.values()]
  listed = record["classes"]["worst"]
  assert [c["correct"] / c["total"] for c in listed] == sorted(rates)[:10]
  assert [c["name"] for c in listed] == [names[c["class"]] for c in listed]
  json.dumps(record, allow_nan=False)
