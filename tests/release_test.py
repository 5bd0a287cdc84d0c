"""Tests of releasing: every step once, in order, and on after any end."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from hub_export import batch
from hub_export import export_dirs
from hub_export import release
from hub_export import releases
from hub_export.destinations import directory
from hub_export.regnet import variants
from tests import loopback
from tests import places

_ROOT = pathlib.Path(__file__).absolute().parents[1]


def _start(home: pathlib.Path, *flags: str, program: str = "tests.fake_release",
           **environment: str) -> subprocess.Popen:
  kept = {k: v for k, v in os.environ.items()
          if k != "BUILD_WORKING_DIRECTORY"}
  return subprocess.Popen(
      [sys.executable, "-m", program, *flags], cwd=home, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
      env=kept | environment | {
          "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
          "FAKE_LOG": str(home / "log"), "REGNETY_HUB_CACHE": str(home)})


def _run(home: pathlib.Path, *flags: str, status: int = 0, **kwargs: str):
  process = _start(home, *flags, **kwargs)
  out, err = process.communicate()
  assert process.returncode == status, f"{out}\n{err}"
  assert "Traceback" not in err
  return out, err


def _log(home: pathlib.Path) -> list[str]:
  path = home / "log"
  return path.read_text().splitlines() if path.exists() else []


def _exports(home: pathlib.Path) -> list[pathlib.Path]:
  """Returns both modules of 600mf."""
  return [home / "exports" / "local" / f"regnety600mf_{kind}" / "1"
          for kind in ("classification", "feature_extractor")]


def test_one(tmp_path):
  out, _ = _run(tmp_path, "--variant=600mf", "--to=a", "--to=b",
                "--checkpoint=demo", "--form=portable", "--data_dir=/data")
  made = _exports(tmp_path)
  assert _log(tmp_path) == [
      "hub_export.export --variant=regnety_600mf --checkpoint=demo "
      "--form=portable",
      *(f"checks.check --export_dir={path} --data_dir=/data" for path in made),
      *(f"hub_export.publish --export_dir={path} --to={to}"
        for to in ("a", "b") for path in made)]
  assert out.endswith(
      "Released to a, b:\n  released  local/regnety600mf_classification/1\n"
      "  released  local/regnety600mf_feature_extractor/1\n")
  for place in ("a", "b"):
    for path in made:
      directory.Directory(tmp_path / place).verify(releases.read(path))


def test_to_places_that_hold_one_module(tmp_path, monkeypatch):
  with places.running("hf", monkeypatch, tmp_path / "home") as place:
    flags = ("--variant=600mf", "--to=hf://lab/{name}")
    for _ in range(2):
      out, _ = _run(tmp_path, *flags)
      assert "Released to hf://lab/{name}:" in out
    assert sorted(place.application.commits) == [
        "lab/regnety600mf_classification", "lab/regnety600mf_feature_extractor"]
    _, err = _run(tmp_path, flags[0], "--to=hf://lab/all", status=2)
    assert "one module only" in err and "{name}" in err


def test_what_no_check_changes_is_met_before_them(tmp_path, monkeypatch):
  with places.running("hf", monkeypatch, tmp_path / "home") as place:
    _, err = _run(tmp_path, "--variant=600mf", "--to=hf://lab/{name}",
                  "--checkpoint=demo", status=1)
    assert "is a demo" in err
    place.server.fault = lambda *_: loopback.status(403)
    _, err = _run(tmp_path, "--variant=800mf", "--to=hf://lab/{name}", status=1)
    assert "refused it (403" in err
  assert {line.split()[0] for line in _log(tmp_path)} == {"hub_export.export"}


def test_what_is_done_is_not_done_again(tmp_path):
  _run(tmp_path, "--variant=600mf", "--to=a")
  before = len(_log(tmp_path))
  out, _ = _run(tmp_path, "--variant=600mf", "--to=a")
  assert [line.split()[0] for line in _log(tmp_path)[before:]] == [
      "hub_export.export", "hub_export.publish", "hub_export.publish"]
  assert "1: has passed before" in out


def test_changed_after_its_checks_is_checked_again(tmp_path):
  _run(tmp_path, "--variant=600mf", "--to=a")
  export_dir = _exports(tmp_path)[0]
  (export_dir / "assets" / "labels.txt").write_text("dog\ncat\n")
  before = len(_log(tmp_path))
  _, err = _run(tmp_path, "--variant=600mf", "--to=a", status=1)
  assert _log(tmp_path)[before + 1].startswith("checks.check ")
  assert "is published already with other bytes" in err


def test_nothing_is_published_that_fails(tmp_path):
  _, err = _run(tmp_path, "--variant=600mf", "--to=a", status=1,
                FAKE_FAILS="tiny")
  assert err == "fake_release: checks.check ended with exit status 1\n"
  assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("flags, status, words", [
    (["--variant=600mf"], 2, ["--to"]),
    (["--variant=601mf", "--to=a"], 2, ["601mf"]),
    (["--variant=600mf", "--to=ftp://a"], 2, ["ftp://a", "--to=published"]),
    (["--to=a"], 2, ["--variant=600mf"]),
    (["--variant=600mf", "--to=a", "--private_key=none.pem"], 1, ["none.pem"]),
    (["--variant=600mf", "--to=kaggle://lab/m/tensorFlow2/v"], 2, ["{name}"]),
    (["--variant=600mf", "--to=s3:bucket"], 2, ["s3:bucket", "s3://bucket"]),
])
def test_bad_usage(tmp_path, flags, status, words):
  _, err = _run(tmp_path, *flags, status=status)
  assert all(word in err for word in words)
  assert not _log(tmp_path)


def test_help_comes_without_tensorflow(tmp_path):
  (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
  process = _start(tmp_path, "--help", program="hub_export.release",
                   PYTHONSTARTUP="")
  out, _ = process.communicate()
  assert process.returncode == 0
  assert "--to" in out and "--variant" in out and "--private_key" in out


def test_a_step_that_fails_tells(tmp_path):
  """The real runner, with a program that says something and fails."""
  (tmp_path / "a_step.py").write_text(
      "import sys\nprint('half done')\nsys.exit('no luck')")
  script = (
      "from hub_export import errors, release\n"
      "try:\n  release.run('a_step')\n"
      "except errors.HubExportError as e:\n  print(e)\n")
  done = subprocess.run(
      [sys.executable, "-c", script], text=True, capture_output=True,
      check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(
          [str(tmp_path), str(_ROOT), *sys.path])})
  assert done.stdout.startswith(
      "  half done\na_step ended with exit status 1; expected 0.")
  assert done.stderr == "no luck\n"


def test_table():
  def outcome(name, status, output, message=""):
    return batch.Outcome(batch.Job(name, name, ()), status, message, output, 3)

  steps = ["\nStep 1 of 3: export\n", "\nStep 2 of 3: check\n",
           "\nStep 3 of 3: publish\n"]
  lines = release.table([
      outcome("a", 0, "".join(steps) + "  released  l/a/1\n  released  l/b/1"),
      outcome("b", 1, "".join(steps[:2]), "release: no luck"),
      outcome("c", -9, "".join(steps[:1]), "ended by signal 9"),
      outcome("d", 1, "".join(steps), "release: full")]).splitlines()
  assert [line.split() for line in lines] == [
      ["Checkpoint", "export", "check", "publish", "Seconds", "Modules"],
      ["a", "done", "done", "done", "3", "l/a/1,", "l/b/1"],
      ["b", "done", "FAILED", "-", "3", "release:", "no", "luck"],
      ["c", "FAILED", "-", "-", "3", "ended", "by", "signal", "9"],
      ["d", "done", "done", "FAILED", "3", "release:", "full"]]


def test_24_variants_survive_kills(tmp_path):
  """kill -9 of all processes, three times; then the same command completes.

  What was checked is not checked again, and nothing is half published.
  """
  names = [v.name for v in variants.VARIANTS
           if v.name.startswith(("regnetx_", "regnety_"))][:24]
  assert len(names) == 24
  flags = (f"--variant={','.join(names)}", "--to=published", "--jobs=2")
  published = directory.Directory(tmp_path / "published")
  for lines in (4, 50, 100):
    process = _start(tmp_path, *flags)
    while len(_log(tmp_path)) < lines and process.poll() is None:
      time.sleep(0.01)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for handle in published.handles():  # All of what users can see is whole.
      published.verify(releases.read(tmp_path / "exports" / str(handle)))
  out, _ = _run(tmp_path, *flags)
  assert out.endswith("24 released, 0 failed\n")
  assert out.count("done    done   done") == 24
  assert len(published.handles()) == 48
  for handle in published.handles():
    export_dir = tmp_path / "exports" / str(handle)
    assert export_dirs.versions(export_dir.parent) == [1]
    published.verify(releases.read(export_dir))
  checks = [line for line in _log(tmp_path) if line.startswith("checks.check")]
  # A kill costs at most the two that were under way.
  assert 48 <= len(checks) <= 48 + 3 * 2
