"""Tests of what the export program does when its other process fails."""

import pathlib

import pytest

from hub_export import errors
from hub_export import export

# pylint: disable=protected-access


def test_checks_that_are_killed_are_told_of_with_what_to_do():
  with export._QuickChecks() as checks:
    checks._process.kill()
    checks._process.wait()
    checks.start(pathlib.Path("exports/local/a/1"))
    with pytest.raises(errors.ChecksError) as e:
      checks.has_passed()
  assert "status -9" in str(e.value) and "memory" in str(e.value)
  assert "--export_dir=exports/local/a/1" in str(e.value)


def test_checks_that_raise_are_told_of_with_what_they_said(tmp_path):
  """Which is whatever `checks.quick` does not turn into an answer."""
  (tmp_path / "sitecustomize.py").write_text(
      "raise SystemExit('this Python is broken')")
  with export._QuickChecks({"PYTHONPATH": str(tmp_path)}) as checks:
    checks.start(pathlib.Path("exports/local/a/1"))
    with pytest.raises(errors.ChecksError, match="this Python is broken"):
      checks.has_passed()
