"""Tests of the report: its status, its interval, writing and reading."""

import dataclasses
import json

import pytest

from checks import report
from hub_export import errors


def _checks(**statuses):
  """One passed check per group, but for the statuses given."""
  return tuple(
      report.CheckResult(group, "one", statuses.get(group, "passed"), "text")
      for group in report.GROUPS)


def _report(**changes):
  base = report.Report(
      handle="local/tiny/1", export_sha256="ab" * 32, checks=_checks(),
      dataset=None, metrics={"top1": report.Rate(351, 360).to_dict()},
      environment={"python": "3.11.7"}, started="2026-11-21T10:50:00Z",
      seconds=1.5)
  return dataclasses.replace(base, **changes)


class TestStatus:

  @pytest.mark.parametrize("statuses, expected", [
      ({}, "passed"),
      ({"numerics": "failed"}, "failed"),
      ({"accuracy": "not_run"}, "incomplete"),
      ({"accuracy": "not_run", "card": "failed"}, "failed"),
  ])
  def test_worst_counts(self, statuses, expected):
    assert report.overall_status(_checks(**statuses)) == expected

  def test_nothing_checked_is_not_passed(self):
    assert report.overall_status([]) == "incomplete"

  def test_a_group_left_out_is_not_passed(self):
    assert report.overall_status(_checks()[:-1]) == "incomplete"


class TestWilson:

  # numpy.roots of (1 + z^2/n) q^2 - (2 p + z^2/n) q + p^2, z = 1.959964.
  @pytest.mark.parametrize("correct, total, low, high", [
      (8, 10, 0.4901625, 0.9433178),
      (0, 10, 0.0, 0.2775328),
      (10, 10, 0.7224672, 1.0),
  ])
  def test_is_where_the_score_test_rejects(self, correct, total, low, high):
    assert report.wilson(correct, total) == pytest.approx((low, high),
                                                          abs=1e-6)

  def test_rate_is_in_percent(self):
    rate = report.Rate(351, 360).to_dict()
    assert rate["value"] == 97.5
    assert rate["low"] < 97.5 < rate["high"] < 100


class TestReadAndWrite:

  def test_back_and_forth(self, tmp_path):
    path = tmp_path / "1.checks.json"
    report.write(_report(), path)
    assert report.read(path) == _report()
    record = json.loads(path.read_text())
    assert record["status"] == "passed"
    assert record["schema_version"] == 1

  def test_what_only_a_full_check_finds(self, tmp_path):
    path = tmp_path / "1.checks.json"
    full = _report(
        archive={"sha256": "cd" * 32, "bytes": 123},
        latency={"median_ms": 1.5, "low_ms": 1.25, "high_ms": 2.0,
                 "calls": 50, "image_size_px": 32},
        previous={"handle": "local/tiny/0", "changes": []})
    report.write(full, path)
    assert report.read(path) == full
    # Reports of earlier releases do not have these fields.
    record = json.loads(path.read_text())
    for field in ("archive", "latency", "previous"):
      del record[field]
    path.write_text(json.dumps(record))
    assert report.read(path) == _report()

  def test_missing(self, tmp_path):
    with pytest.raises(errors.ChecksError, match="Run the checks first"):
      report.read(tmp_path / "1.checks.json")

  @pytest.mark.parametrize("damage", [
      lambda text: text[:len(text) // 2],
      lambda text: "[]",
      lambda text: "null",
      lambda text: text.replace('"handle"', '"handel"'),
      lambda text: text.replace("local/tiny/1", "tiny"),
      lambda text: text.replace('"group": "card"', '"group": "cart"'),
      lambda text: text.replace('"figures"', '"figure"', 1),
  ])
  def test_damaged(self, tmp_path, damage):
    path = tmp_path / "1.checks.json"
    report.write(_report(), path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(errors.ChecksError,
                       match="cannot be read.*Run the checks again"):
      report.read(path)

  def test_other_schema(self, tmp_path):
    path = tmp_path / "1.checks.json"
    report.write(_report(), path)
    path.write_text(path.read_text().replace('version": 1', 'version": 2'))
    with pytest.raises(errors.ChecksError, match="schema version 2"):
      report.read(path)

  def test_status_changed_by_hand(self, tmp_path):
    path = tmp_path / "1.checks.json"
    report.write(_report(checks=_checks(numerics="failed")), path)
    path.write_text(path.read_text().replace(
        '"status": "failed",\n  "checks"', '"status": "passed",\n  "checks"'))
    with pytest.raises(errors.ChecksError,
                       match="says 'passed'.*come to 'failed'"):
      report.read(path)


class TestFromProblems:

  def test_shows_ten(self):
    result = report.from_problems([f"p{i}" for i in range(12)], "good")
    assert result.status == "failed"
    assert "p9; and 2 more" in result.message

  def test_none(self):
    assert report.from_problems([], "good", n=2) == report.CheckResult(
        "", "", "passed", "good", {"n": 2})
