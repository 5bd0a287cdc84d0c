"""Runs a program many times side by side, and tells how each run ended.

Every run is a process of its own, so that one that fails, or takes all of the
memory, takes no other with it.
"""

import concurrent.futures
import dataclasses
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

import tqdm

from hub_export import program


@dataclasses.dataclass(frozen=True)
class Job:
  """One run of a program."""
  name: str                # What the user knows it by.
  group: str               # Jobs of a group run one after another, in order.
  flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a job ended."""
  job: Job
  status: int              # Exit status; below 0 the signal that ended it.
  message: str             # What it had to say on standard error, if it failed.
  output: str              # All of its standard output.
  seconds: float

  @property
  def reason(self) -> str:
    """The line of `message` that says why it failed; "" if it did not."""
    lines = self.message.splitlines() or [""]
    if lines[0].startswith("Traceback "):
      return lines[-1]
    # Where no message came, all of the output stands in for one.
    return next((line.strip() for line in lines if "FAILED" in line), lines[0])


def run(module: str, jobs: Sequence[Job], parallel: int,
        on_end: Callable[[Outcome], None] = lambda outcome: None
        ) -> list[Outcome]:
  """Returns the outcome of every job, in the order of the jobs.

  Draws a progress bar on a terminal. If it is interrupted, it ends what runs.

  Args:
    module: What each job runs, such as "hub_export.export".
    jobs: What to run.
    parallel: How many at once, at most.
    on_end: Called with each outcome, from one thread at a time.
  """
  groups = {}
  for job in jobs:
    groups.setdefault(job.group, []).append(job)
  outcomes = {}
  lock = threading.Lock()
  running = _Running()

  def run_group(group: list[Job]) -> None:
    for job in group:
      if running.is_stopped:
        return
      outcome = _run(module, job, running)
      with lock:
        outcomes[id(job)] = outcome
        if not running.is_stopped:
          on_end(outcome)
          bar.update()

  with (tqdm.tqdm(total=len(jobs), unit="job", disable=None,
                  dynamic_ncols=True) as bar,
        concurrent.futures.ThreadPoolExecutor(parallel) as pool):
    futures = [pool.submit(run_group, g) for g in groups.values()]
    try:
      for future in concurrent.futures.as_completed(futures):
        future.result()
    except BaseException:
      running.stop()  # The pool then waits for its threads.
      raise
  return [outcomes[id(job)] for job in jobs]


def table(rows: Sequence[Sequence[str]]) -> str:
  """Returns rows of text in columns as wide as they have to be."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join("  ".join(
      cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                   for row in rows)


class _Running:
  """The processes that run now."""

  def __init__(self):
    self.is_stopped = False
    self._processes = set()
    self._lock = threading.Lock()

  def start(self, command: Sequence[str], **kwargs) -> subprocess.Popen:
    with self._lock:
      process = subprocess.Popen(command, **kwargs)
      self._processes.add(process)
      if self.is_stopped:
        process.send_signal(signal.SIGTERM)
    return process

  def ended(self, process: subprocess.Popen) -> None:
    with self._lock:
      self._processes.discard(process)

  def stop(self) -> None:
    """Ends all, and those to come as soon as they start.

    Not by SIGINT: what a shell runs in the background ignores it, and so does
    all that is started from there.
    """
    with self._lock:
      self.is_stopped = True
      for process in self._processes:
        process.send_signal(signal.SIGTERM)


def _run(module: str, job: Job, running: _Running) -> Outcome:
  """Returns how a job ended."""
  start = time.monotonic()
  with (tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err):
    process = running.start(
        [sys.executable, "-m", module, *job.flags], stdin=subprocess.DEVNULL,
        stdout=out, stderr=err,
        env=program.child_environment())
    try:
      status = process.wait()
    finally:
      running.ended(process)
    out.seek(0)
    err.seek(0)
    output, message = out.read(), err.read().strip()
  if status and not message:
    message = (f"ended by signal {-status}" if status < 0
               else output.strip() or f"exit status {status}")
  return Outcome(job, status, message if status else "", output,
                 time.monotonic() - start)
