r"""Takes checkpoints all the way: export, check, card, publish.

  bazel run //hub_export:release -- --variant=600mf --to=published
  bazel run //hub_export:release -- --checkpoint='timm:*pycls*' --jobs=2 \
      --publisher=my-lab --to=published --to=gs://my-bucket/models \
      --to='hf://my-lab/{name}'

For each checkpoint it exports both modules, runs all checks on them, which
renews their cards and the collection's page, and publishes them to every --to.
What is done is not done again: the same content makes no new version, a passing
report of these very bytes is taken as it is, an evaluation goes on where it
was, and what is published is only compared. So whatever ended a release, the
same command completes it. The modules of a checkpoint are published when all of
them have passed.

A Hugging Face repository or a variation on Kaggle holds one module only, so
{name} in its address stands for each module's name.

The flags of //hub_export:export say here what they say there.

Exit status: 0 all released, 1 something was not, 2 wrong usage.
"""

import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
import tqdm

from hub_export import batch
from hub_export import destinations
from hub_export import errors
from hub_export import export
from hub_export import export_dirs
from hub_export import program
from hub_export import releases
from hub_export import signing_keys
from hub_export.regnet import requested

flags.adopt_module_key_flags(export)
_TO = flags.DEFINE_multi_string(
    "to", None, "Where to publish, as //hub_export:publish takes it, but "
    "with {name} for a module's name where a place holds one module; may be "
    "given several times.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None,
    "TFDS' directory of prepared data sets, as //checks:check takes it.")
_PRIVATE_KEY = flags.DEFINE_string(
    "private_key", None, "Signs, as for //hub_export:publish.")
_SIGNING_CERTIFICATE = flags.DEFINE_string(
    "signing_certificate", None, "The key's certificate, likewise.")
_CERTIFICATE_CHAIN = flags.DEFINE_list(
    "certificate_chain", [], "Those that vouch for it, likewise.")
_REPLACE_SIGNATURE = flags.DEFINE_boolean(
    "replace_signature", False, "Replaces another's signature, likewise.")

_PUBLISHING = (_PRIVATE_KEY, _SIGNING_CERTIFICATE, _CERTIFICATE_CHAIN,
               _REPLACE_SIGNATURE)
_PROGRAM = "hub_export.release"  # That each of many is released by.
_STEPS = ("export", "check", "publish")
_STEP = "Step {} of 3: "
_RELEASED = "  released  "


def main(_: Sequence[str]) -> int:
  # What would only turn out wrong after hours is looked at first.
  for to in _TO.value:
    destinations.choose(destinations.for_module(to, "name"))
  signing_keys.from_flags(_PRIVATE_KEY.value, _SIGNING_CERTIFICATE.value,
                          _CERTIFICATE_CHAIN.value)
  plan = requested.items(flags.FLAGS["variant"].value,
                         flags.FLAGS["checkpoint"].value)
  if len(plan) > 1:
    return _release_all(plan)
  _release(plan[0])
  return 0


def _release(item: requested.Item) -> None:
  """Releases one checkpoint.

  Raises:
    HubExportError: if a step failed, which has said why.
  """
  _begin(1)
  output = run("hub_export.export", *_export_flags(item))
  paths = [program.user_path(path) for path in export.made_in(output)]
  for path in paths:
    _look_ahead(export_dirs.read_manifest(path))
  _begin(2)
  for path in paths:
    _check(path)
  _begin(3)
  for to in _TO.value:
    for path in paths:
      own = destinations.for_module(to, path.parent.name)
      run("hub_export.publish", f"--export_dir={path}", f"--to={own}",
          *_given(_PUBLISHING))
  _say("\nReleased to " + ", ".join(_TO.value) + ":")
  for path in paths:
    _say(_RELEASED + export_dirs.read_manifest(path)["handle"])


def _look_ahead(manifest: Mapping[str, Any]) -> None:
  """Meets early what no check would change.

  Raises:
    HubExportError: if a place must not have the module, or lets nobody in.
  """
  for to in _TO.value:
    own = destinations.for_module(
        to, export_dirs.parse_handle(manifest["handle"]).name)
    destination = destinations.choose(own)
    if destination.is_remote:
      releases.check_public(manifest, own)
      destination.exists(export_dirs.parse_handle(manifest["handle"]))


def _check(path: pathlib.Path) -> None:
  """Runs all checks, unless they have passed for these very bytes."""
  try:
    releases.read(path)
  except errors.ChecksError:
    run("checks.check", f"--export_dir={path}", *_given([_DATA_DIR]))
  else:
    _say(f"  {program.shown_path(path)}: has passed before")


def run(module: str, *arguments: str) -> str:
  """Runs a program; returns its output, which is shown as it comes.

  Raises:
    HubExportError: if it ends with another status than 0.
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
    process.terminate()  # Where this program is being ended; else it is gone.
    process.wait()
  if status:
    raise errors.HubExportError(
        f"{module} ended with exit status {status}; expected 0. Above it says "
        "why. Put that right and give the same command again: what is done is "
        "not done again.")
  return "".join(lines)


def _release_all(plan: Sequence[requested.Item]) -> int:
  """Releases each in a process of its own; returns the exit status."""
  jobs = [batch.Job(item.title, item.variant.name, (
      *_export_flags(item), *(f"--to={to}" for to in _TO.value),
      *_given([_DATA_DIR, *_PUBLISHING]))) for item in plan]
  at_once = min(flags.FLAGS["jobs"].value, len(jobs))
  _say(f"{len(jobs)} checkpoints, {at_once} at once")

  def tell(outcome: batch.Outcome) -> None:
    # Above the progress bar.
    tqdm.tqdm.write(f"  {outcome.job.name}: " + (
        f"FAILED\n{outcome.message}" if outcome.status
        else f"released in {outcome.seconds:.0f} s"))

  outcomes = batch.run(_PROGRAM, jobs, at_once, tell)
  _say(f"\n{table(outcomes)}")
  failed = sum(bool(outcome.status) for outcome in outcomes)
  _say(f"\n{len(outcomes) - failed} released, {failed} failed"
       + ("; the messages stand above. The same command goes on with what is "
          "left" if failed else ""))
  return 1 if failed else 0


def table(outcomes: Sequence[batch.Outcome]) -> str:
  """Returns a line for each checkpoint: how far it came, and its modules."""
  rows = [("Checkpoint", *_STEPS, "Seconds", "Modules")]
  for outcome in outcomes:
    # The step that failed is the last that began.
    begun = sum(_STEP.format(n) in outcome.output for n in (1, 2, 3))
    states = ["done" if n < begun or not outcome.status else
              "FAILED" if n == begun else "-" for n in (1, 2, 3)]
    modules = [line.removeprefix(_RELEASED)
               for line in outcome.output.splitlines()
               if line.startswith(_RELEASED)]
    rows.append((outcome.job.name, *states, f"{outcome.seconds:.0f}",
                 ", ".join(modules) or outcome.reason[:100]))
  return batch.table(rows)


def _export_flags(item: requested.Item) -> list[str]:
  """Returns the flags that export one checkpoint as the user wants it."""
  own = [f"--variant={item.variant.name}"] if item.variant else []
  if item.checkpoint is not None:
    own.append(f"--checkpoint={item.checkpoint}")
  return own + program.given_flags(export, export.SELECTION)


def _given(holders: Sequence[flags.FlagHolder]) -> list[str]:
  return [flags.FLAGS[h.name].serialize() for h in holders if h.present]


def _begin(number: int) -> None:
  _say(f"\n{_STEP.format(number)}{_STEPS[number - 1]}")


def _say(text: str, end: str = "\n") -> None:
  print(text, end=end, flush=True)


if __name__ == "__main__":
  program.run(main)
