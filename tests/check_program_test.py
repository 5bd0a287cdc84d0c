"""Tests of the check program: table, report, card and exit status."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from checks import report
from checks import suite
from hub_export import export_dirs
from model_cards import render
from model_cards import validate
from tests import tiny_saved_model

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def exports(tmp_path_factory, data_dir):
  """Returns a function from a fault to a classifier, each made once."""
  directory = tmp_path_factory.mktemp("made")
  made = {}

  def make(fault=None):
    if fault not in made:
      made[fault] = tiny_saved_model.write(
          directory / str(fault), data_dir, fault=fault)
    return made[fault]

  return make


def _check(*arguments):
  """Runs the program in a process of its own."""
  return subprocess.run(
      [sys.executable, "-m", "checks.check", *map(str, arguments)],
      cwd=_ROOT, capture_output=True, text=True, check=False, timeout=300,
      env=os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])})


def _sound_card(export_dir):
  """Returns the problems of the card that lies beside an export."""
  return validate.problems(
      export_dirs.card_path(export_dir).read_text(),
      export_dirs.read_manifest(export_dir),
      json.loads(export_dirs.report_path(export_dir).read_text()))


@pytest.fixture(scope="module")
def done(exports, data_dir):
  """A sound export, and how the program ended on it."""
  export_dir = exports()
  return export_dir, _check(
      f"--export_dir={export_dir}", f"--data_dir={data_dir}")


class TestSoundExport:

  def test_passes(self, done):
    export_dir, process = done
    assert process.returncode == 0, process.stdout + process.stderr
    assert "trainability  gradients" in process.stdout
    assert "\x1b[" not in process.stdout  # Not a terminal.
    assert "publish --export_dir=" in process.stdout

  def test_report(self, done):
    export_dir, _ = done
    found = report.read(export_dirs.report_path(export_dir))
    assert found.status == "passed"
    assert found.export_sha256 == export_dirs.digest(export_dir)
    # All checks in order, those of feature extractors left out.
    assert [(c.group, c.name) for c in found.checks] == [
        (c.group, c.name) for c in suite.CHECKS
        if c.name != "same_as_classifier"] + [("card", "card")]
    assert found.metrics["top1"]["total"] == 360
    assert found.dataset["name"] == "optical_digits"
    assert len(found.dataset["digest"]) == 64

  def test_card_agrees_with_the_report(self, done):
    export_dir, _ = done
    assert _sound_card(export_dir) == []
    record = json.loads(export_dirs.report_path(export_dir).read_text())
    value = record["metrics"]["top1"]["value"]
    assert f"{value:.2f}" in export_dirs.card_path(export_dir).read_text()


@pytest.mark.parametrize("fault, check", [
    ("label_order", "structure/labels"),
    ("extra_file", "structure/files"),
    ("missing_signature", "structure/signatures"),
    ("bgr", "numerics/golden"),
])
def test_fault(exports, fault, check):
  export_dir = exports(fault)
  process = _check(f"--export_dir={export_dir}", "--quick")
  assert process.returncode == 1
  failed = process.stdout.split("\nfailed: ")[1].split(";")[0].split(", ")
  assert check in failed
  assert report.read(export_dirs.report_path(export_dir)).status == "failed"


def test_quick(exports):
  export_dir = exports("nothing_reported")
  process = _check(f"--export_dir={export_dir}", "--quick")
  assert process.returncode == 0, process.stdout + process.stderr
  found = report.read(export_dirs.report_path(export_dir))
  assert found.status == "incomplete"
  assert {c.group for c in found.checks if c.status == "not_run"} == {
      "trainability", "accuracy"}
  assert found.metrics is found.dataset is None
  assert "check --export_dir=" in process.stdout


class TestInThisProcess:
  """What needs no process of its own; TensorFlow is running already."""

  @pytest.fixture(autouse=True)
  def _cheap(self, monkeypatch):
    """Leaves the accuracy checks, and one that is quick."""
    monkeypatch.setattr(suite, "CHECKS", tuple(
        c for c in suite.CHECKS
        if c.group == "accuracy" or c.name == "parameters"))

  def test_boast(self, exports, data_dir):
    found = suite.run(exports("boast"), data_dir=data_dir)
    assert [c.name for c in found.checks if c.status == "failed"] == ["top1"]
    assert found.status == "failed"

  def test_data_set_not_there(self, exports, data_dir, tmp_path):
    found = suite.run(exports("nothing_reported"), dataset="imagenet2012",
                      split="validation", data_dir=tmp_path)
    accuracy = [c for c in found.checks if c.group == "accuracy"]
    assert {c.status for c in accuracy} == {"not_run"}
    assert "ILSVRC2012_img_val.tar" in accuracy[0].message
    assert found.status == "incomplete"

  def test_a_check_that_raises_fails_and_the_others_go_on(
      self, exports, data_dir, monkeypatch):
    def explode(subject):
      raise ZeroDivisionError("boom\nbang")

    monkeypatch.setattr(suite, "CHECKS", (
        suite.Check("structure", "broken", explode), *suite.CHECKS))
    found = suite.run(exports("nothing_reported"), data_dir=data_dir)
    assert (found.checks[0].status, found.checks[0].message) == (
        "failed", "ZeroDivisionError: boom bang")
    assert found.checks[1].status == "passed"

  def test_card_that_is_wrong_fails(self, exports, data_dir, monkeypatch):
    export_dir = exports("nothing_reported")
    write_cards = render.write_cards

    def spoilt(directory):
      write_cards(directory)
      path = export_dirs.card_path(directory)
      path.write_text(path.read_text() + "\nIt reaches 123.45 %.\n")

    monkeypatch.setattr(render, "write_cards", spoilt)
    found = suite.run(export_dir, data_dir=data_dir)
    assert found.checks[-1].status == "failed"
    assert "123.45" in found.checks[-1].message
    assert report.read(export_dirs.report_path(export_dir)) == found

  def test_killed_while_the_card_is_made(
      self, exports, data_dir, monkeypatch):
    export_dir = exports("nothing_reported")

    def killed(directory):
      raise KeyboardInterrupt

    monkeypatch.setattr(render, "write_cards", killed)
    with pytest.raises(KeyboardInterrupt):
      suite.run(export_dir, data_dir=data_dir)
    left = report.read(export_dirs.report_path(export_dir))
    assert left.checks[-1].status == "not_run"

  def test_export_that_changes_meanwhile(self, exports, data_dir, monkeypatch):
    export_dir = exports("meanwhile")

    def change(subject):
      (export_dir / "assets" / "late.txt").write_text("late")
      return report.passed("changed")

    monkeypatch.setattr(suite, "CHECKS", (
        suite.Check("structure", "change", change),))
    with pytest.raises(suite.errors.ChecksError, match="was changed while"):
      suite.run(export_dir, data_dir=data_dir)
    assert not export_dirs.report_path(export_dir).exists()


class TestUsage:

  def test_no_export(self, tmp_path):
    process = _check(f"--export_dir={tmp_path}")
    assert process.returncode == 1
    assert "is not an export" in process.stderr
    assert "Traceback" not in process.stderr

  @pytest.mark.parametrize("flag", [
      "--no_such_flag", "--batch_size=0", "--quick"])
  def test_wrong_flags(self, flag):
    process = _check(flag)  # Also: --export_dir is missing.
    assert process.returncode == 2
    assert "Traceback" not in process.stderr

  def test_report_that_cannot_be_written(self, exports, data_dir):
    export_dir = exports("unwritable")
    path = export_dirs.report_path(export_dir)
    path.mkdir()
    (path / "in_the_way").touch()
    process = _check(f"--export_dir={export_dir}", "--quick")
    assert process.returncode == 1
    assert f"cannot write {path}" in process.stderr
    assert "Traceback" not in process.stderr
