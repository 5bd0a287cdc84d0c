"""What inference.py and finetune.py share: open all, compare, hold rounds."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
import numpy as np
import tqdm

from benchmarks import contest
from benchmarks import contestants as contestants_lib
from benchmarks import machine
from benchmarks import options
from benchmarks import preparation
from benchmarks import pythons
from benchmarks import results
from benchmarks import targets as targets_lib
from benchmarks import workers
from hub_export import errors
from hub_export import program

CONTESTANTS = flags.DEFINE_list(
    "contestants", [], "Who takes part, of those above; all by default.")

_COMPARED = 2  # Images; as made_weights.py has expected outputs of.


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be measured."""
  mode: str                     # "infer" or "train".
  contestants: Sequence[contestants_lib.Contestant]
  batch_sizes: Sequence[int]
  size_px: int
  targets: Sequence[targets_lib.Ratio]
  turn_seconds: float           # What a turn takes at least.
  fewest: int                   # Calls in a turn at least.


def run(plan: Plan, prepared: preparation.Prepared, setting: options.Setting,
        say: Callable[[str], None]) -> dict[str, Any]:
  """Returns all figures of a contest.

  Returns:
    {"machine", "setting", "weights", "groups": {name: group},
    "contestants": {name: {"versions", "difference"}}, "missing": [{"name",
    "reason", "install"}], "batches": {size: {"rounds", "thrown_away",
    "others", "is_quiet", "figures", "ratios"}}, "targets": as `targets`
    gives them}.

  Raises:
    HubExportError: if nobody can take part, or nobody gets to the end.
  """
  described = machine.describe()
  missing, known, open_ = [], {}, {}
  with contextlib.ExitStack() as stack:
    for contestant in plan.contestants:
      say(f"Opening {contestant.name}")
      try:
        with contextlib.ExitStack() as attempt:
          worker = attempt.enter_context(
              _opened(contestant, plan, prepared, setting.threads, known))
          stack.push(attempt.pop_all())
      except errors.HubExportError as e:
        missing.append({"name": contestant.name, "reason": str(e),
                        "install": getattr(e, "cure", "")})
        continue
      open_[contestant.name] = worker
    if not open_:
      raise errors.HubExportError(
          "nobody can take part:\n" + results.missing_table(missing))
    batches = {}
    for size in plan.batch_sizes:
      say(f"Batches of {size}: {len(open_)} contestants")
      held = _held(plan, prepared, setting, size, open_, known, missing)
      if held is not None:
        batches[str(size)] = held
    for name, worker in open_.items():
      known[name]["peak_bytes"] = worker.ask("memory")["peak_bytes"]
  if not batches:
    raise errors.HubExportError(
        "nobody finished:\n" + results.missing_table(missing))
  return {
      "machine": described, "setting": dataclasses.asdict(setting),
      "image_size_px": plan.size_px, "weights": dict(prepared.facts),
      "groups": {c.name: c.group for c in plan.contestants},
      "contestants": known, "missing": missing, "batches": batches,
      "targets": targets(plan, batches)}


def finish(name: str, title: str, unit: str, found: Mapping[str, Any],
           output_dir: pathlib.Path | None) -> None:
  """Prints the tables and writes the files."""
  versions = {k: v for c in found["contestants"].values()
              for k, v in c["versions"].items()}
  print(f"{title}\n{machine.line(found['machine'])}\n"
        f"{found['setting']['threads']} threads each; "
        + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())))
  for part in (results.targets_table(found["targets"]),
               results.figures_table(found, unit),
               results.ratios_tables(found),
               results.missing_table(found["missing"])):
    if part:
      print(f"\n{part}")
  results.write(name, found, results.contest_picture(
      found, title, unit, machine.line(found["machine"])), output_dir)


def _opened(contestant: contestants_lib.Contestant, plan: Plan,
            prepared: preparation.Prepared, threads: int,
            known: dict[str, Any]) -> workers.Worker:
  """Returns a worker that has its model, whose outputs are as expected."""
  python = pythons.find(contestant.packages, prepared.pythons)
  if python.python is None:
    raise preparation.Missing(
        f"{', '.join(python.lacking)} not installed",
        _install(contestant.install))
  task = prepared.task(contestant, plan.mode, threads, plan.size_px)
  worker = workers.Worker(contestant.name, python.python, threads)
  with contextlib.ExitStack() as stack:
    stack.enter_context(worker)
    versions = worker.ask("open", task=task)["versions"]
    off = _difference(contestant, worker, prepared)
    # Training compares the first step's loss as well, by that tolerance.
    limit = contestant.tolerance if plan.mode == "infer" else (
        0.2 if contestant.precision == "bf16" else 1e-3)
    if not off <= limit:
      raise errors.HubExportError(
          f"its outputs differ from ours by {off:.2g} standard deviations on "
          f"average; expected at most {limit:g}: it would be no comparison")
    known[contestant.name] = {"versions": versions, "difference": off}
    stack.pop_all()
  return worker


def _difference(contestant: contestants_lib.Contestant, worker: workers.Worker,
                prepared: preparation.Prepared) -> float:
  """Returns how far outputs are from ours on average (root mean square), in
  standard deviations of them."""
  directory = prepared.directory
  images, outputs = (directory / f"{contestant.name}.{part}.npy"
                     for part in ("in", "out"))
  np.save(images, np.load(_source(contestant, directory))[:_COMPARED])
  worker.ask("outputs", images=str(images), to=str(outputs))
  expected = np.load(directory / f"{prepared.convention(contestant)}.npy")
  found = np.load(outputs)
  if found.shape != expected.shape or not np.isfinite(found).all():
    return float("inf")
  off = np.sqrt(np.mean(np.square(found - expected, dtype=np.float64)))
  return float(off / expected.std())


def _source(contestant: contestants_lib.Contestant,
            directory: pathlib.Path) -> pathlib.Path:
  """Returns the file of images as the contestant's network is fed."""
  return directory / ("images.npy" if contestant.is_ours else "fed.npy")


def _held(plan: Plan, prepared: preparation.Prepared, setting: options.Setting,
          size: int, open_: dict[str, workers.Worker], known: dict[str, Any],
          missing: list[dict[str, str]]) -> dict[str, Any] | None:
  """Returns the figures of one batch size; None if nobody can do it.

  Whoever fails is taken off `open_` and put down as missing; the others begin
  anew if that happens between rounds.
  """
  def leave_out(name: str, reason: errors.HubExportError) -> None:
    # It may still be at work, beside the others, or hold all the memory.
    open_.pop(name).end()
    missing.append({"name": name, "reason": f"batch {size}: {reason}",
                    "install": ""})

  by_name = {c.name: c for c in plan.contestants}
  for name, worker in list(open_.items()):
    try:
      _make_ready(by_name[name], worker, prepared, size, known)
    except errors.HubExportError as e:
      leave_out(name, e)
  held = None
  while open_ and held is None:
    turns = {
        name: lambda worker=worker: worker.time(plan.turn_seconds, plan.fewest)
        for name, worker in open_.items()}
    try:
      with tqdm.tqdm(total=setting.rounds, unit="round", leave=False,
                     disable=None) as bar:
        held = contest.hold(turns, setting.rounds, setting.spare_rounds,
                            setting.max_others, bar.update)
    except workers.WorkerError as e:
      leave_out(e.name, e)
  if held is None:
    return None
  return {
      "rounds": len(held.rounds), "thrown_away": held.thrown_away,
      "others": held.others, "is_quiet": held.is_quiet,
      "figures": contest.figures(held, size if plan.mode == "infer" else 1),
      "ratios": {
          mine.name: {other.name: contest.ratio(held, mine.name, other.name)
                      for other in plan.contestants
                      if other.name in open_ and not other.is_ours}
          for mine in plan.contestants
          if mine.name in open_ and mine.is_ours}}


def targets(plan: Plan, batches: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the targets of those who were to take part.

  Args:
    plan: What was to be measured.
    batches: What was, as `run` returns it.

  Returns:
    [{"ours", "theirs", "batch", "limit", "wall", "cpu", "holds"}]: the ratios
    as spreads, by wall time what the target is of; these three are None where
    somebody did not take part.
  """
  names = {c.name for c in plan.contestants}
  found = []
  for target in plan.targets:
    for size in plan.batch_sizes:
      if size in target.limits and {target.ours, target.theirs} <= names:
        ratio = batches.get(str(size), {}).get("ratios", {}).get(
            target.ours, {}).get(target.theirs, {"wall": None, "cpu": None})
        limit, wall = target.limits[size], ratio["wall"]
        found.append({
            "ours": target.ours, "theirs": target.theirs, "batch": size,
            "limit": limit, **ratio,
            "holds": wall["median"] <= limit if wall else None})
  return found


def _make_ready(contestant: contestants_lib.Contestant, worker: workers.Worker,
                prepared: preparation.Prepared, size: int,
                known: dict[str, Any]) -> None:
  """Gives a worker its images; in training, compares the first loss."""
  directory = prepared.directory
  images = directory / f"{contestant.name}.batch.npy"
  np.save(images, np.load(_source(contestant, directory))[:size])
  loss = worker.ask("ready", images=str(images),
                    labels=str(directory / "labels.npy"))["loss"]
  if loss is None:
    return
  expected = prepared.facts["losses"][prepared.convention(contestant)]
  off = abs(loss - expected) / abs(expected)
  known[contestant.name]["loss"] = loss
  if not off <= contestant.tolerance:
    raise errors.HubExportError(
        f"its first loss is {loss:.4f}; expected {expected:.4f}, within "
        f"{contestant.tolerance:.1%}: it would be no comparison")


def _install(command: Sequence[str]) -> str:
  """Returns what the user types: of a target and its flags."""
  if not command:
    return ""
  return " ".join([program.command(command[0]), *command[1:]])
