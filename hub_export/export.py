r"""Turns a trained checkpoint into checked TensorFlow Hub modules.

  bazel run //hub_export:export -- --variant=600mf
  bazel run //hub_export:export -- --variant=600mf --checkpoint=my_600mf.h5

Writes a classifier and a feature extractor as SavedModels, each a new version
under <output_dir>/<publisher>/<name>/, runs the quick checks on them and writes
their cards. Without --checkpoint it takes the ImageNet weights of
tf.keras.applications or, where they cannot be had, trains a small demo.

Exit status: 0 done, 1 something about the input or the machine (one message
says what), 2 wrong usage.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from absl import flags

from hub_export import errors
from hub_export import export_dirs
from hub_export import program

_VARIANT = flags.DEFINE_string(
    "variant", None,
    "Architecture: 200mf, 400mf, 600mf or 800mf, or another published spelling "
    "such as regnety_600mf or RegNetY006.", required=True)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None,
    "What to export: a path (a .h5 file of tf_keras.applications, or the "
    "prefix of a TensorFlow checkpoint of the regnety project), a name of the "
    "catalog (keras:regnety006, regnety:600mf), or demo. By default the "
    "variant's ImageNet weights or, if they cannot be had, the demo.")
_PUBLISHER = flags.DEFINE_string(
    "publisher", "local",
    "First part of the handle: lower-case letters, digits and hyphens.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "exports", "Directory of all exports; made if missing.")
_FORM = flags.DEFINE_enum(
    "form", "main", ["main", "portable"],
    "main is the fast one; to be trained on a CPU it needs a TensorFlow with "
    "oneDNN, as on x86 Linux by default. portable can be trained on every CPU, "
    "at some 15 % more time per step.")
_REPORTED_TOP1 = flags.DEFINE_float(
    "reported_top1", None,
    "Top-1 accuracy that is reported for an own checkpoint, in percent; the "
    "checks hold their measurement against it.", 0, 100)
_REPORTED_TOP5 = flags.DEFINE_float(
    "reported_top5", None, "The same for top-5.", 0, 100)
_REPORTED_SOURCE = flags.DEFINE_string(
    "reported_source", None,
    "Where or by whom these figures were reported, for the card; by default "
    "the exporter.")
_LICENCE = flags.DEFINE_string(
    "licence", None,
    "Licence of an own checkpoint's weights, such as apache-2.0, for the card.")
_TRAINING = flags.DEFINE_string(
    "training", None,
    "How an own checkpoint was trained, a sentence or two for the card.")
_OFFLINE = flags.DEFINE_bool("offline", False, "Use no network at all.")
_FORCE = flags.DEFINE_bool(
    "force", False,
    "Make a new version even if the newest one has this very content.")

_TOLERANCE = 0.1  # Points; what identical preprocessing leaves open.


def main(_: Sequence[str]) -> int:
  # Cheap checks first; the imports below take TensorFlow's seconds.
  from hub_export.regnet import variants  # pylint: disable=g-import-not-at-top
  variant = variants.by_name(_VARIANT.value)
  export_dirs.check_publisher(_PUBLISHER.value)
  _check_own_flags()
  # It imports TensorFlow at the same time as this process does.
  with _QuickChecks() as checks:
    return _export(variant, checks)


def _export(variant, checks: "_QuickChecks") -> int:
  """Exports, has checked and tells; returns the exit status."""
  # pylint: disable=g-import-not-at-top
  with program.quiet_start():
    from hub_export import saved_model
    from hub_export.regnet import family
    from hub_export.regnet import resolve

  _say(f"[1/3] Reading the checkpoint for {variant.name}")
  resolved = resolve.resolve(
      _CHECKPOINT.value, variant, program.cache_dir(), _OFFLINE.value,
      program.user_path, _say)
  resolved = _with_own_facts(resolved)
  if not resolved.checkpoint.num_classes:
    _say("The checkpoint has no head: the feature extractor is exported alone.")

  output_dir = program.user_path(_OUTPUT_DIR.value)
  _say(f"[2/3] Writing SavedModels to {program.shown_path(output_dir)}")
  written = []
  for module in family.hub_modules(resolved, _FORM.value):
    result = saved_model.write(module, output_dir, _PUBLISHER.value,
                               _FORCE.value)
    _say(f"  {program.shown_path(result.export_dir)}" + (
        "" if result.is_new else
        "  (unchanged: the newest version has this very content)"))
    written.append(result)
    # The first module is checked while the second is being built.
    checks.start(result.export_dir)
  _say("[3/3] Quick checks, reports and cards")
  passed = [checks.has_passed() for _ in written]
  _summarise(written, resolved.is_demo, all(passed))
  return 0 if all(passed) else 1


class _QuickChecks:
  """Another process that checks exports; a context that ends with it."""

  def __enter__(self) -> "_QuickChecks":
    # The directory above the packages, not the current one under Bazel.
    root = str(pathlib.Path(__file__).absolute().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    self._log = tempfile.TemporaryFile("w+", encoding="utf-8")
    self._process = subprocess.Popen(
        [sys.executable, "-m", "checks.quick"], text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
    self._started = collections.deque()
    return self

  def __exit__(self, *_) -> None:
    # Whether or not all went well: nothing is waited for any more.
    self._process.kill()
    self._process.communicate()
    self._log.close()

  def start(self, export_dir: pathlib.Path) -> None:
    """Has an export checked as soon as those before it are."""
    self._started.append(export_dir)
    with contextlib.suppress(BrokenPipeError):  # `has_passed` tells of it.
      self._process.stdin.write(json.dumps(str(export_dir)) + "\n")
      self._process.stdin.flush()

  def has_passed(self) -> bool:
    """Waits for the next export in order; says, and returns, how it did."""
    export_dir = program.shown_path(self._started.popleft())
    line = self._process.stdout.readline()
    if not line:
      self._log.seek(0)
      raise RuntimeError(f"checks.quick ended early:\n{self._log.read()}")
    answer = json.loads(line)
    _say(f"  {export_dir}: passed" if answer["passed"] else
         f"  {export_dir}: FAILED\n{answer['message']}")
    return answer["passed"]


def _check_own_flags() -> None:
  """Raises UsageError where facts of an own checkpoint cannot be meant."""
  figures = [f for f in (_REPORTED_TOP1.value, _REPORTED_TOP5.value)
             if f is not None]
  if not all(math.isfinite(figure) for figure in figures):
    raise errors.UsageError("a reported accuracy is a number from 0 to 100")
  if _REPORTED_TOP1.value is None and (figures or _REPORTED_SOURCE.value):
    raise errors.UsageError(
        "--reported_top5 and --reported_source need --reported_top1 as well")
  given = [f.name for f in (_REPORTED_TOP1, _LICENCE, _TRAINING)
           if f.value is not None]
  request = _CHECKPOINT.value or "demo"
  if given and (request == "demo" or request.startswith(("keras:",
                                                         "regnety:"))):
    raise errors.UsageError(
        f"--{given[0]} is for checkpoints of your own; of published ones and "
        "of the demo it is known. Name your file with --checkpoint, or leave "
        "the flag out")


def _with_own_facts(resolved):
  """Returns the checkpoint with what the user says of it.

  Raises:
    UsageError: if the file turns out to be a published one, of which these
      facts are known.
  """
  if resolved.is_own:
    from hub_export.regnet import catalog  # pylint: disable=g-import-not-at-top
    facts = {}
    if _REPORTED_TOP1.value is not None:
      facts["reported"] = catalog.Accuracy(
          _REPORTED_TOP1.value, _REPORTED_TOP5.value,
          _REPORTED_SOURCE.value or "the exporter", _TOLERANCE,
          "the same weights, data and preprocessing are assumed")
    if _LICENCE.value is not None:
      facts |= {"licence_id": _LICENCE.value.lower(),
                "licence": f"{_LICENCE.value}, as stated by the exporter."}
    if _TRAINING.value is not None:
      facts["training"] = _TRAINING.value
    return dataclasses.replace(resolved, **facts)
  if (_REPORTED_TOP1.value, _LICENCE.value, _TRAINING.value) != (None,) * 3:
    raise errors.UsageError(
        f"{_CHECKPOINT.value} is the published {resolved.location}, whose "
        "accuracy, licence and training are known; leave the flags out")
  return resolved


def _summarise(written, is_demo: bool, passed: bool) -> None:
  """Says what was made and what to type next."""
  if not passed:
    _say("\nChecks failed (see above); the exports are kept for a closer look "
         "and cannot be published.")
    return
  _say("\nMade:" if any(w.is_new for w in written) else "\nAlready there:")
  for w in written:
    _say(f"  SavedModel  {program.shown_path(w.export_dir)}/\n"
         f"  card        {program.shown_path(export_dirs.card_path(w.export_dir))}")
  if is_demo:
    _say("They are a demo on digits, not ImageNet models.")
  paths = [str(program.shown_path(w.export_dir)) for w in written]
  _say(f"\nUse it:   hub.KerasLayer({paths[-1]!r}, trainable=True)\n"
       "Next, all checks, without which nothing is published:")
  for path in paths:
    _say(f"  {program.command('//checks:check')} "
         f"--export_dir={shlex.quote(path)}")


def _say(text: str) -> None:
  print(text, flush=True)


if __name__ == "__main__":
  program.run(main)
