r"""Takes checkpoints all the way: export, check, card, publish.

  bazel run //hub_export:release -- --variant=600mf --to=published
  bazel run //hub_export:release -- --checkpoint='timm:*pycls*' \
      --publisher=my-lab --to=published --to=gs://my-bucket/models --jobs=2

For each checkpoint it exports both modules, runs all checks on them (which
renews their cards), publishes them to every --to and writes the collection's
page. A step that was done is not done again: the same content makes no new
version, a report of these very bytes is taken as it is, an evaluation goes on
where it was, and what is published already is only compared. So after whatever
ended a release, the same command completes it. Modules of a checkpoint are
published when all of them have passed, and not before.

All flags of //hub_export:export say here what they say there.

Exit status: 0 all released, 1 something was not, 2 wrong usage.
"""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import flags
import tqdm

from hub_export import batch
from hub_export import destinations
from hub_export import errors
from hub_export import export
from hub_export import export_dirs
from hub_export import program
from hub_export import releases
from hub_export.regnet import requested

flags.adopt_module_key_flags(export)
_TO = flags.DEFINE_multi_string(
    "to", None, "Where to publish, as //hub_export:publish takes it; may be "
    "given several times.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None,
    "TFDS' directory of prepared data sets, as //checks:check takes it.")

_RELEASED = "  released  "
# Flags that are this program's own, and those that say which checkpoint.
_NOT_OF_EXPORT = ("to", "data_dir", "jobs", "variant", "checkpoint")


def main(_: Sequence[str]) -> int:
  # What would only be found wrong after hours is tried first.
  for to in _TO.value:
    destinations.choose(to)
  plan = requested.items(flags.FLAGS["variant"].value,
                         flags.FLAGS["checkpoint"].value)
  if len(plan) > 1:
    return _release_all(plan)
  _release(plan[0])
  return 0


def _release(item: requested.Item) -> None:
  """Releases one checkpoint.

  Raises:
    HubExportError: if a step ended badly, which has said why.
  """
  _say("Step 1 of 3: export")
  made = export.made(_run("hub_export.export", *_export_flags(item)))
  paths = [program.user_path(path) for path in made]
  _say("\nStep 2 of 3: all checks")
  for path in paths:
    _check(path)
  _say("\nStep 3 of 3: publish")
  for to in _TO.value:
    for path in paths:
      _run("hub_export.publish", f"--export_dir={path}", f"--to={to}",
           *_signing_flags())
  _say("")
  for path in paths:
    handle = export_dirs.read_manifest(path)["handle"]
    _say(f"{_RELEASED}{handle}  to {', '.join(_TO.value)}")


def _check(path: pathlib.Path) -> None:
  """Has all checks run, unless they have passed for these very bytes."""
  try:
    releases.read(path)
  except errors.ChecksError:
    data_dir = [f"--data_dir={_DATA_DIR.value}"] if _DATA_DIR.value else []
    _run("checks.check", f"--export_dir={path}", *data_dir)
  else:
    _say(f"  {program.shown_path(path)}: passed before")


def _export_flags(item: requested.Item) -> list[str]:
  """Returns how one checkpoint is exported as this program's flags want it."""
  own = [f"--variant={item.variant.name}"] if item.variant else []
  if item.checkpoint is not None:
    own.append(f"--checkpoint={item.checkpoint}")
  return own + program.given_flags(_NOT_OF_EXPORT)


def _run(module: str, *arguments: str) -> str:
  """Runs a program; returns its output, which is shown as it comes.

  Raises:
    HubExportError: if it ended badly.
  """
  process = subprocess.Popen(
      [sys.executable, "-m", module, *arguments], text=True,
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
      env=program.child_environment())
  lines = []
  try:
    for line in process.stdout:
      lines.append(line)
      _say(f"  {line}", end="")
    status = process.wait()
  finally:
    process.terminate()
    process.wait()
  if status:
    step = module.rpartition(".")[2]
    raise errors.HubExportError(
        f"{step} ended with exit status {status}; expected 0. It says above "
        "why. Put that right and give the same command again: what is done is "
        "not done again.")
  return "".join(lines)


def _release_all(plan: Sequence[requested.Item]) -> int:
  """Releases each in a process of its own; returns the exit status."""
  jobs_at_once = flags.FLAGS["jobs"].value
  shared = [f"--to={to}" for to in _TO.value]
  if _DATA_DIR.value:
    shared.append(f"--data_dir={_DATA_DIR.value}")
  jobs = [batch.Job(item.title, item.variant.name,
                    (*_export_flags(item), *shared)) for item in plan]
  _say(f"{len(jobs)} checkpoints, {min(jobs_at_once, len(jobs))} at once")

  def tell(outcome: batch.Outcome) -> None:
    tqdm.tqdm.write(f"  {outcome.job.name}: " + (
        f"FAILED\n{outcome.message}" if outcome.status
        else f"released in {outcome.seconds:.0f} s"))

  outcomes = batch.run("hub_export.release", jobs, jobs_at_once, tell)
  _say(f"\n{table(outcomes)}")
  failed = sum(bool(outcome.status) for outcome in outcomes)
  _say(f"\n{len(outcomes) - failed} released, {failed} not"
       + ("; the messages stand above. The same command goes on with what is "
          "left" if failed else ""))
  return 1 if failed else 0


def table(outcomes: Sequence[batch.Outcome]) -> str:
  """Returns a line for each checkpoint: how far it came, and what it is now."""
  rows = [("Checkpoint", "Export", "Checks", "Published", "Seconds", "Modules")]
  for outcome in outcomes:
    steps = [outcome.output.count(f"Step {n} of 3") for n in (1, 2, 3)]
    reached = sum(steps)  # The step that failed is the last that began.
    cells = ["done" if n < reached or not outcome.status else
             "FAILED" if n == reached else "-" for n in (1, 2, 3)]
    released = [line.removeprefix(_RELEASED).split()[0]
                for line in outcome.output.splitlines()
                if line.startswith(_RELEASED)]
    rows.append((outcome.job.name, *cells, f"{outcome.seconds:.0f}",
                 ", ".join(released) or outcome.reason[:100]))
  return batch.table(rows)


def _say(text: str, end: str = "\n") -> None:
  print(text, end=end, flush=True)


if __name__ == "__main__":
  program.run(main)
