"""Publishes in processes that can be killed, and start without waiting.

As a program it imports the clients once and forks for every publication, so
that killing at each of many steps does not cost an import each time. It reads a
line of JSON [export_dir, to], answers with the process, and lets that go with
the next line.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator


class Publisher:
  """The program, running."""

  def __init__(self, *modules: str):
    """Starts it with modules imported beforehand."""
    self._process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked_publisher", *modules], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})

  def start(self, export_dir: pathlib.Path, to: str) -> int:
    """Returns the process that will publish once `finish` is called."""
    self._send(json.dumps([str(export_dir), to]))
    return int(self._process.stdout.readline())

  def finish(self) -> str:
    """Lets it go; returns the outcome's name, "killed", or the error."""
    self._send("go")
    return json.loads(self._process.stdout.readline())

  def _send(self, line: str) -> None:
    self._process.stdin.write(line + "\n")
    self._process.stdin.flush()

  def close(self) -> None:
    """Ends the program."""
    self._process.stdin.close()
    self._process.wait(timeout=60)


@contextlib.contextmanager
def running(*modules: str) -> Iterator[Publisher]:
  """Yields a Publisher that is closed in the end."""
  publisher = Publisher(*modules)
  try:
    yield publisher
  finally:
    publisher.close()


def _publish(export_dir: str, to: str) -> str:
  from hub_export import destinations
  from hub_export import errors
  from hub_export import releases
  try:
    return destinations.choose(to).put(
        releases.read(pathlib.Path(export_dir))).name
  except errors.HubExportError as e:
    return str(e)


def _serve() -> None:
  for line in sys.stdin:
    go_read, go_write = os.pipe()
    said_read, said_write = os.pipe()
    pid = os.fork()
    if not pid:
      os.close(go_write)
      os.read(go_read, 1)
      os.write(said_write, _publish(*json.loads(line)).encode())
      os._exit(0)
    os.close(said_write)
    print(pid, flush=True)
    sys.stdin.readline()
    os.write(go_write, b"!")
    with os.fdopen(said_read) as said:
      text = said.read()
    _, status = os.waitpid(pid, 0)
    os.close(go_read)
    os.close(go_write)
    if os.WIFSIGNALED(status):
      text = ("killed" if os.WTERMSIG(status) == signal.SIGKILL
              else f"ended by signal {os.WTERMSIG(status)}")
    print(json.dumps(text), flush=True)


if __name__ == "__main__":
  import importlib
  for _name in sys.argv[1:]:
    importlib.import_module(_name)
  from tests import places
  places.use_kaggle_server()
  _serve()
