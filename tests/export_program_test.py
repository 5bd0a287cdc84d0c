"""Tests of what the export program does when its other process fails."""

import pathlib

from absl import flags
from absl.testing import flagsaver
import pytest

from hub_export import errors
from hub_export import export
from hub_export import forms

# pylint: disable=protected-access


@pytest.fixture(autouse=True)
def _flags():
  with flagsaver.flagsaver():
    if not flags.FLAGS.is_parsed():
      flags.FLAGS(["export"])
    yield


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


def test_calibration_is_for_int8_alone(tmp_path):
  int8 = forms.chosen("lite", {"quantization": "int8"})
  assert export._calibration(int8) == forms.Calibration(None, 200)
  assert export._calibration(None) == forms.Calibration()
  flags.FLAGS.calibration_images = str(tmp_path)
  flags.FLAGS.calibration_examples = 25
  assert export._calibration(int8) == forms.Calibration(tmp_path, 25)
  for choice in (None, forms.chosen("lite", {"quantization": "fp16"})):
    with pytest.raises(errors.UsageError, match="--calibration_images goes with"
                       " --form=lite --quantization=int8"):
      export._calibration(choice)
