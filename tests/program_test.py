"""Tests of what all programs share: flags, exit statuses, paths."""

import gc
import os
import pathlib
import subprocess
import sys

import pytest

from hub_export import errors
from hub_export import program

_ROOT = pathlib.Path(__file__).absolute().parents[1]
_PROGRAM = '''"""Does a thing.

More about the thing.
"""
import os
import signal
import time

from absl import flags
from hub_export import errors
from hub_export import program

_NUMBER = flags.DEFINE_integer("number", 1, "How many things.")
_ACTION = flags.DEFINE_enum(
    "action", None, ["done", "late", "three", "fail", "usage", "interrupt",
              "terminate", "bug"],
    "What to do.", required=True)


def main(argv):
  print(f"number {_NUMBER.value}", flush=_ACTION.value != "late")
  match _ACTION.value:
    case "three":
      return 3
    case "fail":
      raise errors.WriteError("cannot write the thing")
    case "usage":
      raise errors.UsageError("the thing makes no sense")
    case "interrupt":
      raise KeyboardInterrupt
    case "terminate":
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(30)
    case "bug":
      raise ZeroDivisionError("a bug")


if __name__ == "__main__":
  program.run(main)
'''


@pytest.fixture(name="run")
def _run(tmp_path):
  path = tmp_path / "thing.py"
  path.write_text(_PROGRAM)
  def run(*args, stdout=subprocess.PIPE):
    return subprocess.run(
        [sys.executable, str(path), *args], cwd=tmp_path, check=False,
        stdout=stdout, stderr=subprocess.PIPE, text=True, env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
        })
  return run


@pytest.mark.parametrize("action, status, message", [
    ("done", 0, ""),
    ("three", 3, ""),
    ("fail", 1, "thing: cannot write the thing\n"),
    ("usage", 2, "thing: the thing makes no sense\n"),
    ("interrupt", 130, "thing: interrupted; nothing half-written was left\n"),
    ("terminate", 143, "thing: terminated; nothing half-written was left\n"),
])
def test_status_and_one_message(run, action, status, message):
  done = run(f"--action={action}", "--number=7")
  assert (done.returncode, done.stdout, done.stderr) == (
      status, "number 7\n", message)


@pytest.mark.parametrize("given, message", [
    ((), "FROM is missing; expected FROM TO. See --help."),
    (("a",), "TO is missing; expected FROM TO. See --help."),
    (("a", "b", "c"), "unexpected argument 'c'; expected only FROM TO and "
     "flags, --name=value. See --help.")])
def test_named_arguments_are_all_wanted(tmp_path, given, message):
  path = tmp_path / "thing.py"
  path.write_text(_PROGRAM.replace(
      "program.run(main)", "program.run(main, ('FROM', 'TO'))").replace(
          "def main(argv):", "def main(argv):\n  print(argv[1:])"))
  def run(*args):
    return subprocess.run(
        [sys.executable, str(path), *args], check=False, capture_output=True,
        text=True, env=os.environ | {
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
        })
  done = run("--action=done", *given)
  assert (done.returncode, done.stdout, done.stderr) == (
      2, "", f"thing: {message}\n")
  assert run("a", "--action=done", "b").stdout.startswith("['a', 'b']\n")


@pytest.mark.parametrize("action", ["done", "late"])
def test_output_that_nobody_reads_any_more(run, action):
  """As with `| head -1`."""
  reader, writer = os.pipe()
  os.close(reader)
  done = run(f"--action={action}", stdout=writer)
  os.close(writer)
  assert (done.returncode, done.stderr) == (141, "")


def test_bug_keeps_its_traceback(run):
  done = run("--action=bug")
  assert done.returncode not in (0, 2)
  assert "Traceback" in done.stderr
  assert "ZeroDivisionError: a bug" in done.stderr


@pytest.mark.parametrize("args, named", [
    (["--action=done", "--numbr=1"], "numbr"),
    (["--action=done", "--number=x"], "--number=x"),
    (["--action=dance"], "dance"),
    (["--action"], "action"),
    ([], "--action"),
    (["--action=done", "--number=1", "3"], "'3'"),
    (["--action=done", "--", "--number=3"], "'--number=3'"),
    (["--action=done", "--flagfile=none.txt"], "none.txt"),
])
def test_wrong_usage(run, args, named):
  done = run(*args)
  assert done.returncode == 2
  assert done.stdout == ""  # `main` has not begun.
  assert done.stderr.startswith("thing: ") and named in done.stderr
  assert "--help" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(run, flag):
  done = run(flag)
  assert (done.returncode, done.stderr) == (0, "")
  assert "Does a thing." in done.stdout
  assert "How many things." in done.stdout
  assert "<done|late|three|fail|usage|interrupt|terminate|bug>" in done.stdout


class TestUserPath:

  def test_relative_to_where_the_user_stands(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY", raising=False)
    assert program.user_path("a/b") == tmp_path / "a" / "b"
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", "/users/ada")
    assert program.user_path("a/b") == pathlib.Path("/users/ada/a/b")
    assert program.user_path("/a/b") == pathlib.Path("/a/b")
    assert program.user_path("../b/.") == pathlib.Path("/users/b")
    monkeypatch.setenv("HOME", "/users/eve")
    assert program.user_path("~/b") == pathlib.Path("/users/eve/b")

  def test_cache(self, monkeypatch):
    monkeypatch.setenv("HOME", "/users/eve")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", "/users/ada")
    monkeypatch.setenv("REGNETY_HUB_CACHE", "mine")
    assert program.cache_dir() == pathlib.Path("/users/ada/mine")
    monkeypatch.delenv("REGNETY_HUB_CACHE")
    assert program.cache_dir() == pathlib.Path("/x/regnety_hub")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert program.cache_dir() == pathlib.Path("/users/eve/.cache/regnety_hub")

  def test_command(self, monkeypatch):
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", "/users/ada")
    assert program.command("//checks:check") == "./bazelw run //checks:check --"
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY")
    assert program.command("//checks:check") == "python -m checks.check"


class TestQuietStart:

  def test_holds_back_what_c_code_writes(self, capfd):
    with program.quiet_start():
      os.write(2, b"chatter\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"

  def test_shows_it_when_the_start_fails(self, capfd):
    with pytest.raises(ImportError):
      with program.quiet_start():
        os.write(2, b"the reason\n")
        raise ImportError("no")
    assert capfd.readouterr().err == "the reason\n"


  def test_collects_no_imports(self, monkeypatch):
    """But what there was before the first import, and after it, it does."""
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    modules = {k: v for k, v in sys.modules.items() if k != "tensorflow"}
    monkeypatch.setattr(sys, "modules", modules)
    with program.quiet_start():
      modules["tensorflow"] = None
      assert not frozen
    assert frozen == [1]
    with program.quiet_start():
      pass
    assert frozen == [1]


def test_no_home_at_all(monkeypatch):
  """A container's user without a name: no directory called "~" is made."""
  for name in ("REGNETY_HUB_CACHE", "XDG_CACHE_HOME", "HOME"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)
  with pytest.raises(errors.UsageError, match="REGNETY_HUB_CACHE"):
    program.cache_dir()


def test_children_find_the_packages_wherever_the_user_stands(monkeypatch):
  root = str(pathlib.Path(program.__file__).absolute().parents[1])
  monkeypatch.setenv("PYTHONPATH", "/ada/own")
  assert program.child_environment()["PYTHONPATH"] == f"{root}:/ada/own"
  monkeypatch.delenv("PYTHONPATH")
  assert program.child_environment()["PYTHONPATH"] == root
