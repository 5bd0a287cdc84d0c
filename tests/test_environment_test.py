"""Tests that no test can reach the developer's own files by their usual ways."""

import os
import pathlib
import pwd
import subprocess
import sys
import tempfile

import pytest

from hub_export import program
from tools.python import test_environment

_OWN_HOME = pathlib.Path(pwd.getpwuid(os.getuid()).pw_dir)


def _is_scratch(path: str) -> bool:
  """Whether `path` lies where a test may write."""
  places = [tempfile.gettempdir(), os.environ.get("TEST_TMPDIR")]
  return any(pathlib.Path(path).is_relative_to(place)
             for place in places if place)


@pytest.mark.parametrize("path", ["~", "~/.keras", "~/.cache"])
def test_home_is_not_the_developers(path):
  expanded = os.path.expanduser(path)
  assert _is_scratch(expanded)
  assert pathlib.Path(expanded) != _OWN_HOME / path[2:]


@pytest.mark.parametrize("name", [
    "KERAS_HOME", "TFDS_DATA_DIR", "TFHUB_CACHE_DIR", "REGNETY_HUB_CACHE",
    "XDG_CACHE_HOME"])
def test_caches_are_not_the_developers(name):
  assert _is_scratch(os.environ[name])
  assert os.path.isdir(os.environ[name])


def test_programs_cache_follows():
  assert _is_scratch(str(program.cache_dir()))


def test_processes_inherit_it():
  shown = subprocess.run(
      [sys.executable, "-c", "import pathlib; print(pathlib.Path.home())"],
      capture_output=True, text=True, check=True).stdout.strip()
  assert shown == os.environ["HOME"]
  assert _is_scratch(shown)


def test_use_forgets_where_bazel_run_was_called(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "environ", {"BUILD_WORKING_DIRECTORY": "/somewhere",
                                      "HOME": "/home/ada"})
  test_environment.use(str(tmp_path))
  assert os.environ["HOME"] == str(tmp_path / "home")
  assert "BUILD_WORKING_DIRECTORY" not in os.environ
