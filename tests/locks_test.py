"""The locks: whole, with hashes, and without the address of a package index."""

import json
import pathlib
import re

import pytest

_TOOLS = pathlib.Path(__file__).parents[1] / "tools"
_ASKED = sorted((_TOOLS / "python").glob("requirements*.in"))


def _names(path):
  """Returns what a requirements*.in and those that it includes ask for."""
  found = set()
  for line in path.read_text("utf-8").splitlines():
    line = line.partition("#")[0].strip()
    if line.startswith("-r "):
      found |= _names(path.with_name(line[3:]))
    elif line:
      found.add(re.match(r"[\w.-]+", line)[0].lower().replace("_", "-"))
  return found


def test_there_are_locks():
  assert {"requirements.in", "requirements-forms.in"} <= {
      path.name for path in _ASKED}


@pytest.mark.parametrize("path", _ASKED, ids=lambda path: path.name)
def test_python_s_are_whole(path):
  text = path.with_suffix(".txt").read_text("utf-8")
  assert "://" not in text and "index-url" not in text
  pinned = [line for line in text.replace("\\\n", " ").splitlines()
            if line and line[0] not in "# "]
  assert all("--hash=sha256:" in line for line in pinned)
  # Written anew when something else is asked for.
  assert _names(path) <= {re.match(r"[\w.-]+", line)[0] for line in pinned}


def test_npm_s_is_whole():
  asked = json.loads((_TOOLS / "node/package.json").read_text("utf-8"))
  text = (_TOOLS / "node/package-lock.json").read_text("utf-8")
  assert "://" not in text
  packages = json.loads(text)["packages"]
  assert packages.pop("")["dependencies"] == asked["dependencies"]
  assert all(p["integrity"].startswith("sha512-") for p in packages.values())
  assert {f"node_modules/{name}" for name in asked["dependencies"]} <= {
      *packages}
