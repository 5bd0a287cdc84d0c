"""Tests of per-example predictions and their file."""

import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from checks import predictions
from hub_export import errors

NAMES = ("b", "a", "c")
LABELS = ([1], [0, 2], [])
LOGITS = np.array([[0, 2, 1, -1, 0, 0, 0], [3, 0, 3, 0, 0, 0, 0],
                   [0, 0, 0, 0, 0, 0, 5]], np.float32)
KEYS = tuple(predictions.example_digest(*e) for e in zip(
    NAMES, LABELS, (b"x", b"y", b"z")))


def _some(**changes):
  return predictions.from_logits(NAMES, KEYS, LABELS, LOGITS, **changes)


def _equal(a, b):
  return all(np.array_equal(getattr(a, f.name), getattr(b, f.name),
                            equal_nan=f.name == "nll")
             for f in dataclasses.fields(predictions.Predictions))


class TestFromLogits:

  def test_by_hand(self):
    found = _some()
    # Of equal logits the first one comes first.
    assert found.top.tolist() == [
        [1, 2, 0, 4, 5], [0, 2, 1, 3, 4], [6, 0, 1, 2, 3]]
    total = math.exp(2) + math.exp(1) + 4 + math.exp(-1)
    np.testing.assert_allclose(
        found.probabilities[0], np.exp([2, 1, 0, 0, 0]) / total, rtol=1e-6)
    np.testing.assert_allclose(
        found.margins, [1 / LOGITS[0].std(), 0, 5 / LOGITS[2].std()], rtol=1e-6)
    np.testing.assert_allclose(found.nll[0], math.log(total) - 2, rtol=1e-6)
    np.testing.assert_allclose(
        found.nll[1], math.log(2 * math.exp(3) + 5) - 3, rtol=1e-6)
    assert np.isnan(found.nll[2])
    assert found.labels.tolist() == [[1, -1], [0, 2], [-1, -1]]
    assert found.hits.tolist() == [
        [True, False, False, False, False], [True, True, False, False, False],
        [False] * 5]
    assert (found.top1.correct, found.top1.total) == (2, 2)

  def test_masked_classes_are_never_predicted(self):
    allowed = np.array([1, 0, 1, 1, 0, 0, 0], bool)
    found = predictions.from_logits(
        ["a"], KEYS[:1], [[2]], LOGITS[:1], allowed)
    assert found.top.tolist() == [[2, 0, 3]]
    np.testing.assert_allclose(found.probabilities.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(
        found.nll, math.log(math.exp(1) + 1 + math.exp(-1)) - 1, rtol=1e-6)

  def test_large_logits_do_not_overflow(self):
    found = predictions.from_logits(
        ["a"], KEYS[:1], [[1]], np.array([[1e4, 0]], np.float32))
    assert found.probabilities.tolist() == [[1, 0]]
    assert found.nll.tolist() == [1e4]

  @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
  def test_not_finite(self, value):
    logits = LOGITS.copy()
    logits[2, 3] = value
    with pytest.raises(errors.HubExportError, match="logits of c are not fin"):
      predictions.from_logits(NAMES, KEYS, LABELS, logits)


class TestRows:

  def test_put_together_in_order_of_names(self):
    whole = predictions.concatenate([_some()])
    assert whole.file_names == ("a", "b", "c")
    parts = predictions.concatenate(
        [_some().rows([2]), _some().rows(np.array([True, True, False]))])
    assert _equal(parts, whole)
    assert whole.digest() == parts.digest() != _some().digest()

  def test_of_few_and_of_many_labels(self):
    one = predictions.from_logits(["z"], KEYS[:1], [[3]], LOGITS[:1])
    both = predictions.concatenate([one, _some()])
    assert both.labels.tolist() == [[0, 2], [1, -1], [-1, -1], [3, -1]]

  def test_data_digest_is_of_the_examples_in_no_order(self):
    found = _some()
    assert found.data_digest() == found.rows([2, 0, 1]).data_digest()
    assert found.data_digest() != found.rows([0, 1]).data_digest()

  @pytest.mark.parametrize("other", [
      ("b", [1], b"x"), ("a", [2], b"x"), ("a", [1], b"y"), ("a", [], b"x"),
      ("a", [1, 1], b"x")])
  def test_example_digest_covers_name_labels_and_image(self, other):
    assert predictions.example_digest("a", [1], b"x") != (
        predictions.example_digest(*other))

  def test_keys_keep_trailing_zeros(self):
    key = b"\1" * 30 + b"\0\0"
    found = predictions.from_logits(["a"], [key], [[1]], LOGITS[:1])
    assert found.keys() == [key]


class TestFile:

  def test_way_there_and_back(self, tmp_path):
    path = tmp_path / "p.parquet"
    predictions.write(_some(), path, {"export": "x", "n": [1]})
    found, context = predictions.read(path)
    assert _equal(found, _some())
    assert context == {"export": "x", "n": [1]}

  def test_columns_for_others(self, tmp_path):
    path = tmp_path / "p.parquet"
    predictions.write(_some(), path, {})
    rows = parquet.read_table(path).to_pylist()
    assert [row["file_name"] for row in rows] == list(NAMES)
    assert [row["labels"] for row in rows] == [[1], [0, 2], []]
    assert rows[0]["top"] == [1, 2, 0, 4, 5]

  def test_no_example(self, tmp_path):
    path = tmp_path / "p.parquet"
    predictions.write(_some().rows(np.zeros(3, bool)), path, {})
    assert len(predictions.read(path)[0]) == 0

  def test_none(self, tmp_path):
    with pytest.raises(FileNotFoundError):
      predictions.read(tmp_path / "p.parquet")

  def test_each_flipped_bit_of_the_data_is_told(self, tmp_path):
    """Or another class would be read than was written."""
    path = tmp_path / "p.parquet"
    predictions.write(_some(), path, {})
    content = path.read_bytes()
    told = 0
    for i in range(4, len(content) - 8, 7):
      path.write_bytes(
          content[:i] + bytes([content[i] ^ 4]) + content[i + 1:])
      try:
        assert _equal(predictions.read(path)[0], _some())
      except errors.ChecksError:
        told += 1
    assert told > 100

  @pytest.mark.parametrize("damage", ["cut", "flipped", "text", "foreign",
                                      "version"])
  def test_damaged(self, tmp_path, damage):
    path = tmp_path / "p.parquet"
    predictions.write(_some(), path, {})
    content = path.read_bytes()
    if damage == "cut":
      path.write_bytes(content[:-20])
    elif damage == "flipped":
      path.write_bytes(content[:-4] + b"RAP1")
    elif damage == "text":
      path.write_text("no Parquet")
    elif damage == "foreign":
      parquet.write_table(pa.table({"a": [1]}), path)
    else:
      table = parquet.read_table(path)
      record = json.loads(table.schema.metadata[b"regnety_hub"])
      parquet.write_table(table.replace_schema_metadata({
          b"regnety_hub": json.dumps(record | {"schema_version": 99})}), path)
    with pytest.raises(errors.ChecksError, match="p.parquet cannot be read.*"
                       "Remove it and evaluate again"):
      predictions.read(path)
