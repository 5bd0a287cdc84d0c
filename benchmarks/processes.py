"""Other programs, run to their end: their answers, time, memory and errors."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar

from benchmarks import workers
from checks import meter
from hub_export import errors

_Found = TypeVar("_Found")
_SAMPLE_SECONDS = 0.1
_GRACE_SECONDS = 10.0  # For a program that is to tidy up after itself.
_LAST_WORDS = 2000     # Characters of what a program said.
# Where the last thing that a program says begins: "export: the form ..." as
# `program.run` prints it, or the last line of a traceback.
_MESSAGE = r"^(?:{name}: |[\w.]+(?:Error|Exception|Interrupt): )"


@contextlib.contextmanager
def started(command: Sequence[str], environment: dict[str, str],
            grace: float | None = None, **pipes: Any
            ) -> Iterator[subprocess.Popen]:
  """Yields a process that has ended, with all that it started, afterwards.

  It is asked to end first, so that it removes what it has half-written. It is
  a group of its own: Ctrl-C reaches this program alone, which sees to it.

  Args:
    command: What to run.
    environment: Of the process.
    grace: Seconds that it has to end when it is asked to; 10 by default.
    **pipes: As subprocess.Popen takes them.
  """
  with subprocess.Popen(command, env=environment, start_new_session=True,
                        **pipes) as process:
    try:
      yield process
    finally:
      if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(_GRACE_SECONDS if grace is None else grace)
      # What is left of the group, such as the exporter's quick checks.
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run_module(python: str, module: str, *arguments: str,
               threads: int | None = None) -> str:
  """Runs a module of this project to its end; returns its standard output.

  Args:
    python: What runs it.
    module: Such as "hub_export.export".
    *arguments: Of the command line.
    threads: How many it may use, all by default.

  Raises:
    HubExportError: if it fails; with the whole of its last message.
  """
  command = [python, "-m", module, *arguments]
  with tempfile.TemporaryFile() as log, started(
      command, workers.environment(python, threads or os.cpu_count()),
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process:
    output = process.stdout.read().decode(errors="replace")
    process.wait()
    _require_success(process, command, log, output)
  return output


def last_message(said: str, name: str) -> str:
  """Returns the last thing that a program said, whole.

  Args:
    said: All that it said, warnings and tracebacks too.
    name: Of the program, as its messages begin.
  """
  begins = [match.start() for match in re.finditer(
      _MESSAGE.format(name=re.escape(name)), said, re.MULTILINE)]
  message = said[begins[-1]:] if begins else said[-_LAST_WORDS:]
  return message.removeprefix(f"{name}: ").strip()[:_LAST_WORDS]


def fresh(threads: int, **task: Any) -> dict[str, Any]:
  """Returns what fresh.py answers.

  Raises:
    HubExportError: if it fails; with the whole of its last message.
  """
  return json.loads(run_module(
      sys.executable, "benchmarks.fresh", json.dumps(task | {
          "threads": threads}), threads=threads).splitlines()[-1])


def first_output_seconds(command: Sequence[str]) -> float:
  """Returns the seconds from starting a program to its first output.

  Raises:
    HubExportError: if it says nothing on its standard output, or fails.
  """
  start = time.perf_counter()
  with tempfile.TemporaryFile() as log, started(
      command, workers.environment(sys.executable, os.cpu_count()),
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log) as process:
    byte = process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    process.wait()
    _require_success(process, command, log)
    if not byte:
      raise errors.HubExportError(
          f"{' '.join(command)} ended without a text; expected one on its "
          "standard output")
  return seconds


def whole_run(command: Sequence[str]) -> dict[str, float]:
  """Returns what a program and its children take, and the memory of all of
  them together at its highest, sampled.

  Returns:
    {"wall", "cpu"} in seconds, "peak_bytes", "others".

  Raises:
    HubExportError: if it fails.
  """
  watch, peak = _Watch(), 0
  with tempfile.TemporaryFile() as log, started(
      command, workers.environment(sys.executable, os.cpu_count()),
      stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
    while process.poll() is None:
      peak = max(peak, tree_bytes(process.pid))
      time.sleep(_SAMPLE_SECONDS)
    _require_success(process, command, log)
  return {"wall": watch.wall(), "peak_bytes": peak, "cpu": watch.cpu(),
          "others": watch.others()}


def tree_bytes(pid: int, proc: pathlib.Path = pathlib.Path("/proc")) -> int:
  """Returns the resident memory of a process and all that it started."""
  parents, pages = {}, {}
  for path in proc.glob("[0-9]*"):
    try:
      stat = (path / "stat").read_text()
      pages[int(path.name)] = int((path / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
      continue  # It has ended meanwhile.
    # The name stands in brackets and may have some of its own: proc(5).
    parents[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
  total = 0
  for each in pages:
    ancestor = each
    while ancestor not in (pid, 0, None):
      ancestor = parents.get(ancestor)
    total += pages[each] if ancestor == pid else 0
  return total * os.sysconf("SC_PAGE_SIZE")


def quiet_rounds(measure: Callable[[int], tuple[_Found, float]], wanted: int,
                 spare: int, max_others: float
                 ) -> tuple[list[_Found], dict[str, Any]]:
  """Returns what was found in rounds that were quiet, and how quiet.

  Args:
    measure: Takes the round's number; returns what it found, and the share of
      the machine that others used meanwhile.
    wanted: Rounds that are to count.
    spare: How many more may be held.
    max_others: What others may use, from 0 to 1.

  Returns:
    `wanted` results, the least disturbed ones where too few were quiet; and
    {"rounds", "thrown_away", "others", "is_quiet"}.
  """
  held = []
  while (sum(others <= max_others for _, others in held) < wanted
         and len(held) < wanted + spare):
    held.append(measure(len(held)))
  kept = sorted(held, key=lambda pair: pair[1])[:wanted]
  others = max(share for _, share in kept)
  return [found for found, _ in kept], {
      "rounds": len(kept), "thrown_away": len(held) - len(kept),
      "others": others, "is_quiet": others <= max_others}


class _Watch:
  """What was used since it was made, by this program's children and others."""

  def __init__(self):
    self._busy, self._own = meter.busy_seconds(), _all_own_seconds()
    self._children, self._wall = _children_seconds(), time.perf_counter()

  def wall(self) -> float:
    return time.perf_counter() - self._wall

  def cpu(self) -> float:
    """Processor seconds of children that have ended."""
    return _children_seconds() - self._children

  def others(self) -> float:
    return meter.others_share(
        meter.busy_seconds() - self._busy, _all_own_seconds() - self._own,
        self.wall(), os.cpu_count())


def _children_seconds() -> float:
  times = os.times()
  return times.children_user + times.children_system


def _all_own_seconds() -> float:
  return meter.own_seconds() + _children_seconds()


def _require_success(process: subprocess.Popen, command: Sequence[str],
                     log: BinaryIO, output: str = "") -> None:
  """Raises HubExportError, with the last message, if a process failed."""
  if process.returncode:
    log.seek(0)
    said = log.read().decode(errors="replace").strip() or output.strip()
    what = command[2] if command[1] == "-m" else command[0]
    # As `program.run` calls a program: "export" of hub_export.export.
    name = what.rpartition(".")[2]
    killed = (" (what the system does when memory runs out)"
              if process.returncode == -signal.SIGKILL else "")
    raise errors.HubExportError(
        f"{what} ended with exit status {process.returncode}{killed}: "
        f"{last_message(said, name) or 'it said nothing'}")
