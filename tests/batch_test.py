"""Many runs side by side: none takes another with it, and all are told of."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from hub_export import batch

# A program that does what its flags say and notes when.
_PROGRAM = """
import os, pathlib, sys, time
name, log, what = sys.argv[1:]
def note(text):
  with open(log, "a") as f:
    f.write(f"{text} {name}\\n")
note("start")
if what == "fail":
  sys.exit("program: no luck")
if what == "die":
  os.kill(os.getpid(), 9)
if what == "wait":
  time.sleep(60)
time.sleep(0.2)
print(f"made {name}")
note("end")
"""


@pytest.fixture(name="program")
def _program(tmp_path, monkeypatch):
  (tmp_path / "a_program.py").write_text(_PROGRAM)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  return "a_program"


def _job(tmp_path, name, what="work", group=None):
  return batch.Job(name, group or name, (name, str(tmp_path / "log"), what))


def test_one_failure_does_not_stop_the_others(program, tmp_path):
  jobs = [_job(tmp_path, "a"), _job(tmp_path, "b", "fail"),
          _job(tmp_path, "c", "die"), _job(tmp_path, "d")]
  told = []
  outcomes = batch.run(program, jobs, 1, told.append)
  assert [o.job.name for o in outcomes] == ["a", "b", "c", "d"]
  assert [o.status for o in outcomes] == [0, 1, -9, 0]
  assert [o.message for o in outcomes] == [
      "", "program: no luck", "ended by signal 9", ""]
  assert outcomes[3].output == "made d\n"
  assert told == outcomes


@pytest.mark.parametrize("message, reason", [
    ("", ""), ("export: no luck\nat all", "export: no luck"),
    ("Traceback (most recent call last):\n  a line\nKeyError: 3",
     "KeyError: 3"),
    ("[1/3] Reading\n  x/1: passed\n  y/1: FAILED\nnumerics/golden: off",
     "y/1: FAILED")])
def test_reason(message, reason):
  outcome = batch.Outcome(batch.Job("a", "a", ()), 1, message, "", 0.0)
  assert outcome.reason == reason


def test_as_many_at_once_as_allowed(program, tmp_path):
  jobs = [_job(tmp_path, str(i)) for i in range(4)]
  batch.run(program, jobs, 2)
  running = most = 0
  for line in (tmp_path / "log").read_text().splitlines():
    running += 1 if line.startswith("start") else -1
    most = max(most, running)
  assert most == 2


def test_a_group_keeps_its_order(program, tmp_path):
  jobs = [_job(tmp_path, name, group="g") for name in "abc"]
  batch.run(program, jobs, 3)
  assert (tmp_path / "log").read_text().split("\n")[:-1] == [
      "start a", "end a", "start b", "end b", "start c", "end c"]


@pytest.mark.parametrize("number, others", [
    (signal.SIGINT, "SIG_DFL"), (signal.SIGTERM, "SIG_IGN")])
def test_interrupted_it_ends_what_runs(program, tmp_path, number, others):
  """Also in a shell's background, where SIGINT is ignored."""
  root = pathlib.Path(__file__).absolute().parents[1]
  process = subprocess.Popen(
      [sys.executable, "-c", f"""
import signal
from hub_export import batch
if {others!r} == "SIG_IGN":
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
else:
  signal.signal(signal.SIGINT, signal.default_int_handler)
log = {str(tmp_path / "log")!r}
jobs = [batch.Job(n, n, (n, log, "wait")) for n in "abc"]
batch.run({program!r}, jobs, 2)
"""], env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"},
      stderr=subprocess.DEVNULL)
  log = tmp_path / "log"
  deadline = time.monotonic() + 30
  while time.monotonic() < deadline and not (
      log.exists() and log.read_text().count("start") == 2):
    time.sleep(0.02)
  process.send_signal(number)
  # Each would sleep for a minute.
  assert process.wait(timeout=30) != 0
  assert log.read_text().count("start") == 2


def test_table():
  assert batch.table([("Name", "Result"), ("a long one", "ok"), ("b", "")]) == (
      "Name        Result\na long one  ok\nb")
