"""Which Python runs whom: the program's own, or one that has the peers.

The peers do not resolve together with TensorFlow, and torch is large, so they
live in environments of their own: one that //benchmarks:peers makes from a
lock with hashes, or any Python that the user names.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Sequence

from benchmarks import workers
from hub_export import errors
from hub_export import program

VARIABLE = "HUB_PEERS_PYTHON"  # Environment: as --peers_python.
WHOLE = "whole"  # A file of an environment that was installed to its end.
_LOCKS = {False: "requirements-peers.txt", True: "requirements-torch.txt"}
_PROBE = """
import importlib.util, json, sys
print(json.dumps([n for n in sys.argv[1:] if importlib.util.find_spec(n)]))
"""


@dataclasses.dataclass(frozen=True)
class Found:
  """A Python that has what is needed, or what is lacking."""
  python: str | None
  lacking: tuple[str, ...] = ()  # Of the nearest Python, where there is none.


def lock(with_torch: bool) -> pathlib.Path:
  """Returns the lock of the environment with, or without, torch."""
  return pathlib.Path(__file__).absolute().parents[1].joinpath(
      "tools/python", _LOCKS[with_torch])


def environment_dir(with_torch: bool) -> pathlib.Path:
  """Returns where the environment of a lock lies, or would lie."""
  content = lock(with_torch).read_bytes() + sys.version.encode()
  return program.cache_dir() / (
      f"{'torch' if with_torch else 'peers'}-"
      f"{hashlib.sha256(content).hexdigest()[:12]}")


def made_python(with_torch: bool) -> pathlib.Path | None:
  """Returns the Python of such an environment, None where it is not whole."""
  directory = environment_dir(with_torch)
  return (directory / "bin" / "python" if (directory / WHOLE).exists()
          else None)


def candidates(given: Sequence[str]) -> tuple[str, ...]:
  """Returns all Pythons to look into, the preferred ones first.

  Args:
    given: What the user names; must be there.

  Raises:
    UsageError: if one of these is no file.
  """
  named = [str(program.user_path(g)) for g in given]
  if VARIABLE in os.environ:
    named.append(str(program.user_path(os.environ[VARIABLE])))
  for python in named:
    if not os.access(python, os.X_OK) or os.path.isdir(python):
      raise errors.UsageError(
          f"--peers_python: {python} is no program; expected the Python of an "
          "environment with the peers, such as venv/bin/python")
  made = filter(None, map(made_python, (False, True)))
  return (*named, *map(str, made), sys.executable)


def find(packages: Iterable[str], pythons: Sequence[str]) -> Found:
  """Returns the first Python that has all the packages.

  Args:
    packages: Names of Python modules.
    pythons: As `candidates` gives them.
  """
  lacks = []
  for python in pythons:
    lacking = tuple(n for n in packages if n not in _installed(
        python, tuple(packages)))
    if not lacking:
      return Found(python)
    lacks.append(lacking)
  return Found(None, min(lacks, key=len))


@functools.cache
def _installed(python: str, packages: tuple[str, ...]) -> Sequence[str]:
  """Returns those of the packages that a Python has; imports none."""
  result = subprocess.run(
      [python, "-c", _PROBE, *packages], env=workers.environment(python, 1),
      text=True, capture_output=True, check=False)
  if result.returncode:
    raise errors.HubExportError(
        f"{python} cannot be run: {result.stderr.strip()[-300:]}. Name "
        "another one with --peers_python, or leave the flag out.")
  return json.loads(result.stdout)
