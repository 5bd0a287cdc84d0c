"""Contestants' processes, as seen from the program that asks them in turn."""

import json
import os
import pathlib
import selectors
import subprocess
import sys
import tempfile
import time
from typing import Any

from checks import meter
from hub_export import errors
from hub_export import program

_TIMEOUT_SECONDS = 1800.0  # Of one answer: tf_keras' first step takes minutes.
_LAST_WORDS = 1500         # Characters of what a process said before it died.


class WorkerError(errors.HubExportError):
  """A contestant could not do something; the message says who and what."""

  def __init__(self, name: str, message: str):
    super().__init__(message)
    self.name = name


class Worker:
  """A process that has one model; a context that ends with it."""

  def __init__(self, name: str, python: str, threads: int,
               timeout: float = _TIMEOUT_SECONDS,
               module: str = "benchmarks.worker"):
    """Starts it.

    Args:
      name: For messages.
      python: The Python that has what the contestant needs.
      threads: As many as every contestant may use.
      timeout: Seconds that an answer may take.
      module: What to run.
    """
    self.name = name
    self._timeout = timeout
    self._log = tempfile.TemporaryFile()
    self._process = subprocess.Popen(
        [python, "-m", module], env=environment(python, threads),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        # Ctrl-C is the asking program's affair, which ends this one.
        start_new_session=True)
    self._rest = b""

  def __enter__(self) -> "Worker":
    return self

  def __exit__(self, *_) -> None:
    self.end()

  def end(self) -> None:
    """Ends the process, whatever it is at; nothing if it was ended before."""
    if not self._log.closed:
      self._process.kill()
      self._process.communicate()
      self._log.close()

  def ask(self, do: str, **request: Any) -> dict[str, Any]:
    """Returns the answer to a request; see worker.py for both.

    Raises:
      WorkerError: if it could not be done, or the process ended or is slow.
    """
    try:
      self._process.stdin.write(
          json.dumps({"do": do, **request}).encode() + b"\n")
      self._process.stdin.flush()
      answer = json.loads(self._line())
    except BrokenPipeError:
      raise self._ended() from None
    if "error" in answer:
      raise WorkerError(
          self.name, f"{self.name} could not {do}: {answer['error']}")
    return answer

  def time(self, seconds: float, fewest: int) -> meter.Turn:
    """Returns a turn of some seconds, and of that many calls at least."""
    found = self.ask("time", seconds=seconds, fewest=fewest)
    return meter.Turn(tuple(found["wall"]), found["cpu"], found["others"])

  def _line(self) -> bytes:
    deadline = time.monotonic() + self._timeout
    with selectors.DefaultSelector() as selector:
      selector.register(self._process.stdout, selectors.EVENT_READ)
      while b"\n" not in self._rest:
        if not selector.select(max(deadline - time.monotonic(), 0)):
          raise WorkerError(
              self.name,
              f"{self.name} has not answered for {self._timeout:g} s; leave "
              "it out with --contestants, or look at what else runs")
        read = os.read(self._process.stdout.fileno(), 1 << 16)
        if not read:
          raise self._ended()
        self._rest += read
    line, _, self._rest = self._rest.partition(b"\n")
    return line

  def _ended(self) -> WorkerError:
    self._log.seek(0)
    said = self._log.read().decode(errors="replace").strip()[-_LAST_WORDS:]
    return WorkerError(
        self.name,
        f"{self.name} ended with exit status {self._process.wait()} (-9 is "
        f"what the system does when memory runs out). It said: "
        f"{said or 'nothing'}")


def environment(python: str, threads: int) -> dict[str, str]:
  """Returns the environment of a contestant's process.

  Args:
    python: What runs it; another Python must not see this one's packages.
    threads: For what reads its number of threads from there.
  """
  mine = program.child_environment()
  if python != sys.executable:
    mine["PYTHONPATH"] = str(pathlib.Path(__file__).absolute().parents[1])
    mine.pop("PYTHONHOME", None)
    mine["PYTHONNOUSERSITE"] = "1"
  return mine | {
      "OMP_NUM_THREADS": str(threads), "TF_NUM_INTRAOP_THREADS": str(threads),
      "MKL_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads),
      "TF_CPP_MIN_LOG_LEVEL": "3",
      # torch and TensorFlow look for a GPU otherwise: this is about processors.
      "CUDA_VISIBLE_DEVICES": ""}

