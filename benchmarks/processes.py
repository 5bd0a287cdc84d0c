"""Fresh processes, measured from outside: their answers, time and memory."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from benchmarks import workers
from hub_export import errors

_Found = TypeVar("_Found")
_SAMPLE_SECONDS = 0.1


def fresh(threads: int, **task: Any) -> dict[str, Any]:
  """Returns what fresh.py answers.

  Raises:
    HubExportError: if it fails; with the end of what it said.
  """
  result = subprocess.run(
      [sys.executable, "-m", "benchmarks.fresh",
       json.dumps(task | {"threads": threads})], text=True,
      env=workers.environment(sys.executable, threads), capture_output=True,
      check=False)
  if result.returncode:
    raise errors.HubExportError(
        f"measuring ({task['do']}) ended with exit status {result.returncode} "
        "(-9 is what the system does when memory runs out): "
        f"{result.stderr.strip()[-600:]}")
  return json.loads(result.stdout.splitlines()[-1])


def first_output_seconds(command: Sequence[str]) -> float:
  """Returns the seconds from starting a program to its first output.

  Raises:
    HubExportError: if it says nothing on its standard output.
  """
  start = time.perf_counter()
  with subprocess.Popen(
      command, env=workers.environment(sys.executable, os.cpu_count()),
      stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    byte = process.stdout.read(1)
    seconds = time.perf_counter() - start
    _, said = process.communicate()
  if not byte or process.returncode:
    raise errors.HubExportError(
        f"{' '.join(command)} ended with exit status {process.returncode} and "
        f"without a text: {said.decode(errors='replace')[-300:]}")
  return seconds


def whole_run(command: Sequence[str]) -> dict[str, float]:
  """Returns the wall and processor seconds of a program and its children, and
  the memory of all of them together at its highest, sampled.

  Raises:
    HubExportError: if it fails.
  """
  start, before, peak = time.perf_counter(), os.times(), 0
  with tempfile.TemporaryFile() as log, subprocess.Popen(
      command, env=workers.environment(sys.executable, os.cpu_count()),
      stdout=subprocess.DEVNULL, stderr=log) as process:
    while process.poll() is None:
      peak = max(peak, tree_bytes(process.pid))
      time.sleep(_SAMPLE_SECONDS)
    log.seek(0)
    said = log.read()
  wall, after = time.perf_counter() - start, os.times()
  if process.returncode:
    raise errors.HubExportError(
        f"{' '.join(command)} ended with exit status {process.returncode}: "
        f"{said.decode(errors='replace')[-300:]}")
  return {"wall": wall, "peak_bytes": peak, "cpu": (
      after.children_user + after.children_system
      - before.children_user - before.children_system)}


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
