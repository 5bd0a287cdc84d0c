"""Runs a program many times in processes that have TensorFlow imported already.

As a program it imports what it is told to, then forks for each line of JSON
{"argv": [...], "out": path, "err": path} and runs that as `python -m` would.
What takes seconds at every start is done once; flags, exit status and output
are those of a process of its own. Whether the program starts by itself, and how
early wrong flags are refused, is for other tests.
"""

import contextlib
import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping


class Program:
  """One program, to be run as often as wanted."""

  def __init__(self, module: str, process: subprocess.Popen):
    self._module = module
    self._process = process

  def run(self, *arguments: object) -> subprocess.CompletedProcess:
    """Returns how it ended: exit status, standard output and error as text."""
    argv = [self._module, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as directory:
      out, err = (pathlib.Path(directory, name) for name in ("out", "err"))
      self._process.stdin.write(
          json.dumps({"argv": argv, "out": str(out), "err": str(err)}) + "\n")
      self._process.stdin.flush()
      status = int(self._process.stdout.readline())
      return subprocess.CompletedProcess(
          argv, status, out.read_text(), err.read_text())


@contextlib.contextmanager
def running(module: str, *imports: str, cwd: pathlib.Path | None = None,
            env: Mapping[str, str] | None = None) -> Iterator[Program]:
  """Yields the program `module`; `imports` are what it takes long to import.

  It runs in this process' directory and environment unless others are given.
  Not to be imported: the module itself, which defines its flags when it is
  run, and what computes with TensorFlow at once: threads are not forked.
  """
  root = str(pathlib.Path(__file__).absolute().parents[1])
  with subprocess.Popen(
      [sys.executable, "-m", "tests.forked_program", *imports], text=True,
      cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      env=(env or os.environ) | {
          "PYTHONPATH": os.pathsep.join([root, *sys.path])}) as process:
    yield Program(module, process)  # The end closes its input, and it ends.


def _run(argv: list[str], out: str, err: str) -> None:
  """Becomes the program; ends with its exit status."""
  for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
    flags = os.O_RDONLY if not number else os.O_WRONLY | os.O_CREAT
    os.dup2(os.open(path, flags), number)
  sys.argv = argv
  runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


def _serve() -> None:
  answers = os.fdopen(os.dup(1), "w")
  for line in sys.stdin:
    pid = os.fork()
    if not pid:
      _run(**json.loads(line))
      return
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
  for _name in sys.argv[1:]:
    importlib.import_module(_name)
  _serve()
