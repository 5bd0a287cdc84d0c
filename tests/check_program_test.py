"""Tests of the check program: table, report, card and exit status."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from checks import accuracy
from checks import names
from checks import report
from checks import suite
from checks.forms import loading
from hub_export import archive
from hub_export import errors
from hub_export import export_dirs
from model_cards import render
from model_cards import validate
from tests import forked_program
from tests import tiny_saved_model
from tests import tiny_subject

_ROOT = pathlib.Path(__file__).parents[1]
_ALL = suite.CHECKS
_EVALUATIONS = {}  # One evaluation is enough for all tests.


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


@pytest.fixture(scope="module")
def check():
  """Returns a function that runs the program without its imports' seconds."""
  with forked_program.running("checks.check", "checks.suite") as program:
    yield program.run


def _sound_card(export_dir):
  """Returns the problems of the card that lies beside an export."""
  return validate.problems(
      export_dirs.card_path(export_dir).read_text(),
      export_dirs.read_manifest(export_dir),
      json.loads(export_dirs.report_path(export_dir).read_text()))


def _edit_manifest(export_dir, edit):
  path = export_dir / "assets.extra" / "manifest.json"
  record = json.loads(path.read_text())
  edit(record)
  path.write_text(json.dumps(record))


def _messages(found):
  """Returns the message of each check by its name."""
  return {c.name: c.message for c in found.checks}


def _no_data(subject):
  raise errors.UnavailableError("left out by the test")


@pytest.fixture(scope="module")
def done(exports, data_dir):
  """A sound export, and how the program ended on it."""
  export_dir = exports()
  return export_dir, _check(
      f"--export_dir={export_dir}", f"--data_dir={data_dir}")


@pytest.mark.parametrize("form", ["main", "portable"])
@pytest.mark.parametrize("kind", ["classifier", "feature_extractor"])
def test_the_gate_asks_for_what_the_suite_runs(form, kind):
  assert sorted(names.EXPECTED[form][kind]) == sorted(
      [f"{c.group}/{c.name}" for c in suite.CHECKS
       if kind in c.kinds and c.name != "expected"] + ["card/card"])


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
        if "classifier" in c.kinds and c.name != "expected"
    ] + [("card", "card")]
    assert found.metrics["top1"]["total"] == 360
    assert found.dataset["name"] == "optical_digits"
    assert len(found.dataset["digest"]) == 64
    assert 0 < found.latency["low_ms"] <= found.latency["median_ms"]
    assert found.previous is None

  def test_archive_in_the_report_is_the_one_that_is_published(
      self, done, tmp_path):
    export_dir, _ = done
    found = report.read(export_dirs.report_path(export_dir))
    packed = tmp_path / "1.tar.gz"
    archive.write(packed, export_dir)
    assert found.archive == {"bytes": packed.stat().st_size,
                             "sha256": export_dirs.file_sha256(packed)}

  def test_card_agrees_with_the_report(self, done):
    export_dir, _ = done
    assert _sound_card(export_dir) == []
    record = json.loads(export_dirs.report_path(export_dir).read_text())
    value = record["metrics"]["top1"]["value"]
    assert f"{value:.2f}" in export_dirs.card_path(export_dir).read_text()


@pytest.mark.parametrize("fault, failing", [
    ("label_order", "structure/labels"),
    ("extra_file", "structure/files"),
    ("missing_signature", "structure/signatures"),
    ("bgr", "numerics/golden"),
])
def test_fault(exports, check, fault, failing):
  export_dir = exports(fault)
  process = check(f"--export_dir={export_dir}", "--quick")
  assert process.returncode == 1
  failed = process.stdout.split("\nfailed: ")[1].split(";")[0].split(", ")
  assert failing in failed
  assert report.read(export_dirs.report_path(export_dir)).status == "failed"


def test_quick(exports, check):
  export_dir = exports("nothing_reported")
  process = check(f"--export_dir={export_dir}", "--quick")
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


  def test_manifest_without_form(self, exports, data_dir, monkeypatch):
    export_dir = exports("formless")
    _edit_manifest(export_dir, lambda m: m.pop("form"))
    monkeypatch.setattr(suite, "CHECKS", _ALL)
    monkeypatch.setattr(accuracy, "run", _no_data)
    found = suite.run(export_dir, data_dir=data_dir)
    assert {c.status for c in found.checks if c.group == "trainability"} == {
        "failed"}
    assert "form is missing" in _messages(found)["manifest"]

  def test_unknown_kind(self, exports, data_dir, monkeypatch):
    export_dir = exports("of no kind")
    _edit_manifest(export_dir, lambda m: m.update(kind="segmenter"))
    monkeypatch.setattr(suite, "CHECKS", _ALL)
    found = suite.run(export_dir, data_dir=data_dir)
    assert "kind is 'segmenter'" in _messages(found)["manifest"]
    assert found.status == "failed"

  def test_a_model_that_does_not_load_is_told_once(
      self, exports, data_dir, monkeypatch):
    export_dir = exports("unloadable")
    (export_dir / "saved_model.pb").write_bytes(b"no graph")
    monkeypatch.setattr(suite, "CHECKS", _ALL)
    loaded = []
    load = loading.load
    monkeypatch.setattr(loading, "load",
                        lambda *args: loaded.append(args) or load(*args))
    found = suite.run(export_dir, data_dir=data_dir)
    assert len(loaded) == 1
    status = {f"{c.group}/{c.name}": c.status for c in found.checks}
    assert [name for name, value in status.items() if value == "failed"] == [
        "structure/interface"]
    assert "saved_model.pb" in _messages(found)["interface"]
    for group, names_of in (
        ("structure", ["files", "manifest", "labels"]),
        ("numerics", ["preprocessing"]), ("card", ["card"])):
      for name in names_of:
        assert status.pop(f"{group}/{name}") == "passed"
    del status["structure/interface"]
    assert {*status.values()} == {"not_run"}
    assert {_messages(found)[name.split("/")[1]] for name in status} == {
        "this needs a model that can be loaded; structure/interface says why "
        "this one cannot"}

  @pytest.mark.parametrize("tail", ["..", "../1/../1"])
  def test_path_with_dots(self, exports, data_dir, tail):
    export_dir = exports("dotted")
    inside = export_dir / "assets" if tail == ".." else export_dir
    suite.run(inside / tail, data_dir=data_dir, quick=True)
    path = export_dirs.report_path(export_dir)
    assert report.read(path).checks
    assert export_dirs.card_path(export_dir).is_file()
    path.unlink()  # Else the second is no test.

  def test_waits_for_another_run(self, exports, data_dir):
    export_dir = exports("nothing_reported")
    export_dirs.report_path(export_dir).unlink(missing_ok=True)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      with export_dirs.lock(export_dir):
        run = pool.submit(suite.run, export_dir, data_dir=data_dir, quick=True)
        with pytest.raises(TimeoutError):
          run.result(timeout=2)
        assert not export_dirs.report_path(export_dir).exists()
      run.result(timeout=100)
    assert export_dirs.report_path(export_dir).exists()

  def test_locked_until_all_is_written(self, exports, data_dir, monkeypatch):
    export_dir = exports("nothing_reported")
    written = []
    write_file = export_dirs.write_file

    def watched(path, content):
      with pytest.raises(BlockingIOError):
        with export_dirs.lock(export_dir, wait=False):
          pass
      written.append(path)
      write_file(path, content)

    monkeypatch.setattr(export_dirs, "write_file", watched)
    suite.run(export_dir, data_dir=data_dir)
    assert export_dirs.report_path(export_dir) in written
    assert export_dirs.card_path(export_dir) in written


class TestFullReport:
  """What becomes of a passing report and its card."""

  @pytest.fixture
  def export_dir(self, exports, data_dir, monkeypatch, tmp_path):
    """A copy of an export with a passing report."""
    made = exports("full")
    if "full" not in _EVALUATIONS:
      _EVALUATIONS["full"] = accuracy.run(tiny_subject.of(made, data_dir))
    monkeypatch.setattr(
        accuracy, "run", lambda subject: _EVALUATIONS["full"])
    # Checks that take no time.
    monkeypatch.setattr(suite, "CHECKS", tuple(
        suite.Check(group, "fine", lambda *_: report.passed("fine"))
        for group in report.GROUPS[:-1]))
    if not export_dirs.report_path(made).exists():
      assert suite.run(made, data_dir=data_dir).status == "passed"
    root = made.parents[2]
    shutil.copytree(root, tmp_path / "full")
    return tmp_path / "full" / made.relative_to(root)

  # Report; pictures, page, card, collection; card; report; page, card; report.
  @pytest.mark.parametrize("writes", range(13))
  def test_killed_between_two_writes(
      self, export_dir, data_dir, monkeypatch, writes):
    old = _EVALUATIONS["full"]
    predictions = old.predictions
    wrong = predictions.labels.copy()
    wrong[:5, 0] = (predictions.top[:5, 0] + 1) % 10
    # Another top-1, so that no card fits both reports.
    monkeypatch.setattr(accuracy, "run", lambda subject: dataclasses.replace(
        old, evaluation=dataclasses.replace(
            old.evaluation, predictions=dataclasses.replace(
                predictions, labels=wrong))))
    monkeypatch.setattr(accuracy, "counting", lambda *_: report.passed("n"))
    write_file = export_dirs.write_file
    written = []

    def killed(path, content):
      if len(written) == writes:
        raise KeyboardInterrupt
      write_file(path, content)
      written.append(path)

    monkeypatch.setattr(export_dirs, "write_file", killed)
    with pytest.raises(KeyboardInterrupt) if writes < 12 else (
        contextlib.nullcontext()):
      suite.run(export_dir, data_dir=data_dir)
    path = export_dirs.report_path(export_dir)
    found = report.read(path)
    assert found.status == "incomplete" or not _sound_card(export_dir)
    assert found.status == (
        "incomplete" if written.count(path) == 1 else "passed")

  @pytest.mark.parametrize("status", ["passed", "failed"])
  def test_quick_keeps_it(
      self, export_dir, data_dir, check, monkeypatch, status):
    if status == "failed":
      monkeypatch.setattr(suite, "CHECKS", (*suite.CHECKS, suite.Check(
          "trainability", "bad", lambda _: report.failed("bad"))))
      suite.run(export_dir, data_dir=data_dir)
    path = export_dirs.report_path(export_dir)
    before = path.read_bytes()
    export_dirs.card_path(export_dir).unlink()
    found = suite.run(export_dir, data_dir=data_dir, quick=True)
    assert found.status == status
    assert path.read_bytes() == before
    assert _sound_card(export_dir) == []
    # And the program says so.
    process = check(f"--export_dir={export_dir}", "--quick")
    assert process.returncode == (0 if status == "passed" else 1)
    assert f"of {found.started}. It tells more" in process.stdout

  def test_quick_replaces_that_of_other_bytes(self, export_dir, data_dir):
    path = export_dirs.report_path(export_dir)
    record = json.loads(path.read_text()) | {"export_sha256": "0" * 64}
    path.write_text(json.dumps(record))
    found = suite.run(export_dir, data_dir=data_dir, quick=True)
    assert found.status == "incomplete"
    assert report.read(path) == found


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

  @pytest.mark.parametrize("flag, message", [
      ("--dataset=imagnet", "no data set 'imagnet'"),
      ("--split=tset", "no split 'tset'")])
  def test_misspelt_data(self, exports, data_dir, check, flag, message):
    export_dir = exports("misspelt")
    process = check(
        f"--export_dir={export_dir}", f"--data_dir={data_dir}", flag)
    assert process.returncode == 2
    assert message in process.stderr
    assert not export_dirs.report_path(export_dir).exists()

  def test_report_that_cannot_be_written(self, exports, check):
    export_dir = exports("unwritable")
    path = export_dirs.report_path(export_dir)
    path.mkdir()
    (path / "in_the_way").touch()
    process = check(f"--export_dir={export_dir}", "--quick")
    assert process.returncode == 1
    assert f"cannot write {path}" in process.stderr
    assert "Traceback" not in process.stderr
