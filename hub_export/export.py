r"""Turns trained checkpoints into checked TensorFlow Hub modules.

  bazel run //hub_export:export -- --variant=600mf
  bazel run //hub_export:export -- --checkpoint=my_600mf.pth
  bazel run //hub_export:export -- --checkpoint=timm:regnety_006.pycls_in1k
  bazel run //hub_export:export -- --checkpoint='timm:*pycls*' --jobs=2

Writes a classifier and a feature extractor as SavedModels, or in another form,
each a new version under <output_dir>/<publisher>/<name>/, runs the quick checks
on them and writes their cards. Without --checkpoint it takes the ImageNet weights of
tf.keras.applications or, where they cannot be had, trains a small demo. The
program //hub_export:catalog lists all published checkpoints.

Exit status: 0 done, 1 something about the input or the machine (one message
says what), 2 wrong usage.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from absl import flags
import tqdm

from hub_export import batch
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import program
from hub_export import provenance
from hub_export.forms import extras
from hub_export.regnet import requested
from hub_export.regnet import variants
from hub_export.regnet import wishes as wishes_lib

_VARIANT = flags.DEFINE_string(
    "variant", None,
    "Architecture: 200mf to 256gf, a RegNetY unless it says otherwise, in any "
    "published spelling (regnetx_1.6gf, RegNetY006, regnet_y_8gf); or several: "
    "a list with commas, a pattern such as 'regnety_*', or all. May be left "
    "out where --checkpoint says it.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None,
    "What to export: a path or URL (a file of timm, torchvision, pycls, "
    "tf_keras or Keras 3, a TensorFlow checkpoint of the regnety project, or a "
    "module of this program, fine-tuned or not), a name of the catalog "
    "(timm:regnety_006.pycls_in1k) or a pattern over its names "
    "('timm:*pycls*'), or demo. By default the variant's ImageNet weights or, "
    "if they cannot be had, the demo.")
_PUBLISHER = flags.DEFINE_string(
    "publisher", "local",
    "First part of the handle: lower-case letters, digits and hyphens.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "exports", "Directory of all exports; made if missing.")
_FORM = flags.DEFINE_enum(
    "form", "main", forms.names(),
    "main is the fast one; to be trained on a CPU it needs a TensorFlow with "
    "oneDNN, as on x86 Linux by default. portable can be trained on every CPU, "
    "at some 15 % more time per step. The others are for inference alone: "
    "serving for TensorFlow Serving, lite for phones and small devices, onnx "
    "for ONNX Runtime, tfjs for browsers; the last two need "
    "//hub_export:export_forms, which brings what makes and checks them.")
_OPTIONS = {
    "precision": flags.DEFINE_string(
        "precision", None,
        "What --form=serving computes in: float32, or bf16, which takes half "
        "the memory and, on processors with bfloat16 instructions, half the "
        "time, at a loss that the card states. By default float32."),
    "quantization": flags.DEFINE_string(
        "quantization", None,
        "How --form=lite keeps its numbers: float32; fp16, weights of half the "
        "bytes; dynamic, weights of a quarter, activations quantised as they "
        "come; int8, both of 8 bits, the fastest. By default float32."),
}
_CALIBRATION_IMAGES = flags.DEFINE_string(
    "calibration_images", None,
    "Directory of JPEG and PNG images, at any depth, like those that the model "
    "will see: --quantization=int8 measures ranges on them. By default "
    "examples of the data set's training split.")
_CALIBRATION_EXAMPLES = flags.DEFINE_integer(
    "calibration_examples", None,
    f"How many images that takes; by default {forms.Calibration().examples}.",
    forms.FEWEST_CALIBRATION_EXAMPLES)
_ACCEPT_LICENSE = flags.DEFINE_list(
    "accept_license", [],
    "Restricted licences that you have read and accept: cc-by-nc-4.0 (SWAG), "
    "seer.")
_CHECKPOINT_FORMAT = flags.DEFINE_enum(
    "checkpoint_format", None, wishes_lib.FORMATS,
    "Reads --checkpoint as this, whatever its content looks like.")
_CONVENTION = flags.DEFINE_enum(
    "convention", None, [c.name for c in variants.CONVENTIONS],
    "How the network pads, for the few files that do not tell: torch (timm, "
    "torchvision, pycls), keras or regnety.")
_CHANNEL_ORDER = flags.DEFINE_enum(
    "channel_order", None, ["RGB", "BGR"],
    "What an own checkpoint was trained on; by default BGR for pycls' files. "
    "The module takes RGB in any case.")
_MEAN = flags.DEFINE_list(
    "mean", None,
    "What an own checkpoint's images are normalised by: three numbers for R, "
    "G and B on the scale of 0 to 1; by default as usual where the file's "
    "format comes from.")
_STD = flags.DEFINE_list("std", None, "The standard deviations, likewise.")
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None,
    "Side of the centre crop in pixels, for evaluation and encoded images; by "
    "default that of the published accuracy.", 32)
_RESIZE = flags.DEFINE_integer(
    "resize", None, "Size in pixels that images are scaled to before the crop.",
    32)
_RESIZE_MODE = flags.DEFINE_enum(
    "resize_mode", None, ["shorter", "squash"],
    "shorter: the short side becomes that size; squash: both sides do.")
_INTERPOLATION = flags.DEFINE_enum(
    "interpolation", None, ["bilinear", "bicubic"], "How images are scaled.")
_ANTIALIAS = flags.DEFINE_bool(
    "antialias", None, "Whether scaling down averages, as PIL does.")
_LABELS = flags.DEFINE_string(
    "labels", None,
    "File with an own checkpoint's class names, one a line, in the order of "
    "the outputs.")
_DATASET = flags.DEFINE_string(
    "dataset", None,
    "What an own checkpoint is to be evaluated on, as TensorFlow Datasets "
    "calls it; by default imagenet2012 for 1000 classes.")
_SPLIT = flags.DEFINE_string("split", None, "The split of --dataset.")
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
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "How many checkpoints to export at once, where there are many.",
    1)
_OFFLINE = flags.DEFINE_bool("offline", False, "Use no network at all.")
_FORCE = flags.DEFINE_bool(
    "force", False,
    "Make a new version even if there is one with this very content.")

# Flags that say which checkpoints, and how many at once.
SELECTION = ("variant", "checkpoint", "jobs")
# Of weights: from here on modules are checked only when the network that they
# were written from is out of memory.
_LARGE_BYTES = 400e6
# glibc: freed tensors go back to the system at once. Of Y-128GF this keeps the
# peak below 1.5 times the weights, and takes no longer.
_SPARING = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_ARENA_MAX": "2"}
_WRITTEN = "REGNETY_HUB_WRITTEN"  # Environment; see `_begin_afresh`.
_DEMO_NOTE = "They are a demo on digits, not ImageNet models."


def main(_: Sequence[str]) -> int:
  # Cheap checks first; the imports further down take TensorFlow's seconds.
  export_dirs.check_publisher(_PUBLISHER.value)
  if _WRITTEN in os.environ:
    made = _Made(**json.loads(os.environ.pop(_WRITTEN)))
    return _conclude(made, map(_passes_sparingly, made.export_dirs))
  wishes = _wishes()
  choice = forms.chosen(
      _FORM.value, {name: flag.value for name, flag in _OPTIONS.items()})
  extras.require(_FORM.value)
  calibration = _calibration(choice)
  plan = requested.items(_VARIANT.value, _CHECKPOINT.value)
  for item in plan:
    requested.check(item, wishes)
  if len(plan) > 1:
    return _export_all(plan)
  requested.fetch(plan[0], program.cache_dir(), wishes)
  # It imports TensorFlow at the same time as this process does.
  with _QuickChecks() as checks:
    made = _export(plan[0], wishes, choice, calibration, checks)
    if not made.is_large:
      return _conclude(made, (checks.has_passed() for _ in made.export_dirs))
  return _begin_afresh(made)


@dataclasses.dataclass(frozen=True)
class _Made:
  """What was written."""
  export_dirs: list[str]
  is_new: bool           # Whether any of them is.
  is_demo: bool
  is_large: bool         # Whether they are checked in a process of their own.


def _wishes() -> wishes_lib.Wishes:
  """Returns what the flags say of the checkpoint."""
  return wishes_lib.Wishes(
      offline=_OFFLINE.value, accepted_licences=tuple(_ACCEPT_LICENSE.value),
      image_size=_IMAGE_SIZE.value, resize=_RESIZE.value,
      resize_mode=_RESIZE_MODE.value, interpolation=_INTERPOLATION.value,
      antialias=_ANTIALIAS.value, format_name=_CHECKPOINT_FORMAT.value,
      convention=_CONVENTION.value, channel_order=_CHANNEL_ORDER.value,
      mean=wishes_lib.three_numbers("mean", _MEAN.value),
      std=wishes_lib.three_numbers("std", _STD.value),
      labels=program.user_path(_LABELS.value) if _LABELS.value else None,
      dataset=_DATASET.value, split=_SPLIT.value, licence=_LICENCE.value,
      training=_TRAINING.value, reported_top1=_REPORTED_TOP1.value,
      reported_top5=_REPORTED_TOP5.value,
      reported_source=_REPORTED_SOURCE.value)


def _calibration(choice: forms.Choice | None) -> forms.Calibration:
  """Returns what the flags say of the images to calibrate on.

  Raises:
    UsageError: if they were given for a form that is not calibrated.
  """
  given = {flag.name: flag.value
           for flag in (_CALIBRATION_IMAGES, _CALIBRATION_EXAMPLES)
           if flag.value is not None}
  if not given:
    return forms.Calibration()
  if not choice or choice.name != "int8":
    raise errors.UsageError(
        f"--{next(iter(given))} goes with --form=lite --quantization=int8; "
        "nothing else is calibrated. Leave it out, or choose that.")
  images = _CALIBRATION_IMAGES.value
  return forms.Calibration(
      program.user_path(images) if images else None,
      _CALIBRATION_EXAMPLES.value or forms.Calibration().examples)


def _export(item: requested.Item, wishes: wishes_lib.Wishes,
            choice: forms.Choice | None, calibration: forms.Calibration,
            checks: "_QuickChecks") -> _Made:
  """Exports; has checked what is not large."""
  # pylint: disable=g-import-not-at-top
  with program.quiet_start():
    from hub_export import saved_model
    from hub_export.forms import making
    from hub_export.regnet import family
    from hub_export.regnet import resolve

  _say("[1/3] Reading the checkpoint"
       + (f" for {item.variant.name}" if item.variant else ""))
  resolved = resolve.resolve(item.checkpoint, item.variant, program.cache_dir(),
                             wishes, program.user_path, _say)
  arch = resolved.checkpoint.architecture
  if item.variant is None:
    _say(f"  It is a {arch.name}.")
  if not resolved.checkpoint.num_classes:
    _say("The checkpoint has no head: the feature extractor is exported alone.")
  total = variants.parameter_counts(arch, resolved.checkpoint.num_classes)[1]
  is_large = 4 * total > _LARGE_BYTES

  output_dir = program.user_path(_OUTPUT_DIR.value)
  form = forms.by_name(_FORM.value)
  _say(f"[2/3] Writing {form.files}s to {program.shown_path(output_dir)}")
  if form.is_fine_tunable:
    modules = family.hub_modules(resolved, _FORM.value)
  else:
    modules = making.payloads(family.inferences(resolved), _FORM.value, choice,
                              calibration)
  written = []
  for module in modules:
    result = saved_model.write(module, output_dir, _PUBLISHER.value,
                               _FORCE.value)
    provenance.record(result.export_dir)
    _say(f"  {program.shown_path(result.export_dir)}" + (
        "" if result.is_new else
        "  (unchanged: this version has this very content)"))
    written.append(result)
    # The first module is checked while the second is being built.
    if not is_large:
      checks.start(result.export_dir)
  return _Made([str(w.export_dir) for w in written],
               any(w.is_new for w in written), resolved.is_demo, is_large)


def _begin_afresh(made: _Made) -> NoReturn:
  """Goes on in the same process without what it has in memory.

  TensorFlow keeps the memory of variables that are gone, so that the network
  would be in memory twice: here, and where it is checked.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]],
            os.environ | {_WRITTEN: json.dumps(dataclasses.asdict(made))})


def _passes_sparingly(export_dir: str) -> bool:
  """Has one large export checked, in as little memory as can be."""
  with _QuickChecks(_SPARING) as checks:
    checks.start(pathlib.Path(export_dir))
    return checks.has_passed()


def _conclude(made: _Made, passed: Iterable[bool]) -> int:
  """Waits for the checks and tells; returns the exit status.

  Args:
    made: What was written.
    passed: Whether each of it passed; to be had when the checks have ended.
  """
  _say("[3/3] Quick checks, reports and cards")
  all_passed = all(list(passed))
  _summarise(made, all_passed)
  return 0 if all_passed else 1


def _export_all(plan: Sequence[requested.Item]) -> int:
  """Exports each in a process of its own; returns the exit status."""
  kept = program.given_flags(sys.argv[0], SELECTION)
  jobs = []
  for item in plan:
    own = [f"--{_VARIANT.name}={item.variant.name}"]
    if item.checkpoint is not None:
      own.append(f"--{_CHECKPOINT.name}={item.checkpoint}")
    # Checkpoints of one variant are versions of one module, in this order.
    jobs.append(batch.Job(item.title, item.variant.name, (*own, *kept)))
  _say(f"{len(jobs)} checkpoints, {min(_JOBS.value, len(jobs))} at once")

  def tell(outcome: batch.Outcome) -> None:
    # Above the progress bar.
    tqdm.tqdm.write(f"  {outcome.job.name}: " + (
        f"FAILED\n{outcome.message}" if outcome.status
        else f"done in {outcome.seconds:.0f} s"))

  outcomes = batch.run("hub_export.export", jobs, _JOBS.value, tell)
  rows = [("Checkpoint", "Result", "Seconds", "Exports")]
  for outcome in outcomes:
    made = made_in(outcome.output)
    # Nobody reads all that each of many has to say; this must be seen.
    passed = "demo only" if _DEMO_NOTE in outcome.output else "passed"
    rows.append((outcome.job.name, "FAILED" if outcome.status else passed,
                 f"{outcome.seconds:.0f}",
                 ", ".join(made) or outcome.reason[:100]))
  _say(f"\n{batch.table(rows)}")
  failed = sum(bool(outcome.status) for outcome in outcomes)
  _say(f"\n{len(outcomes) - failed} exported, {failed} failed"
       + ("; the messages stand above" if failed else ""))
  if failed < len(outcomes):
    _say("Next, all checks of each, without which nothing is published:\n"
         f"  {extras.command(_FORM.value, '//checks:check')} --export_dir=...")
  return 1 if failed else 0


class _QuickChecks:
  """Another process that checks exports; a context that ends with it."""

  def __init__(self, environment: Mapping[str, str] | None = None):
    self._environment = environment or {}

  def __enter__(self) -> "_QuickChecks":
    self._log = tempfile.TemporaryFile("w+", encoding="utf-8")
    self._process = subprocess.Popen(
        [sys.executable, "-m", "checks.quick"], text=True,
        env=program.child_environment() | self._environment,
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
      raise errors.ChecksError(
          f"The quick checks of {export_dir} ended with exit status "
          f"{self._process.wait()} before they had a result (-9 is what the "
          "system does when memory runs out). The export is whole; checks run "
          f"on it with `{extras.command(_FORM.value, '//checks:check')} "
          f"--export_dir={shlex.quote(str(export_dir))}`. They said: "
          f"{self._log.read().strip()[-2000:] or 'nothing'}")
    answer = json.loads(line)
    _say(f"  {export_dir}: passed" if answer["passed"] else
         f"  {export_dir}: FAILED\n{answer['message']}")
    return answer["passed"]


def _summarise(made: _Made, passed: bool) -> None:
  """Says what was made and what to type next."""
  if not passed:
    _say("\nChecks failed (see above); the exports are kept for a closer look "
         "and cannot be published.")
    return
  _say("\nMade:" if made.is_new else "\nAlready there:")
  form = forms.by_name(_FORM.value)
  paths = []
  for path in map(pathlib.Path, made.export_dirs):
    card = export_dirs.card_path(path)
    paths.append(str(program.shown_path(path)))
    _say(f"  {form.files:10}  {paths[-1]}/\n"
         f"  card        {program.shown_path(card)}")
  if made.is_demo:
    _say(_DEMO_NOTE)
  _say(f"\nUse it:   {form.use.format(path=paths[-1])}\n"
       "Next, all checks, without which nothing is published:")
  for path in paths:
    _say(f"  {extras.command(_FORM.value, '//checks:check')} "
         f"--export_dir={shlex.quote(path)}")


def made_in(output: str) -> list[str]:
  """Returns the exports, as the user would type them, that output tells of."""
  prefixes = tuple(f"  {form.files}  " for form in forms.FORMS)
  return [line.split(None, 1)[1].rstrip("/") for line in output.splitlines()
          if line.startswith(prefixes)]


def _say(text: str) -> None:
  print(text, flush=True)


if __name__ == "__main__":
  program.run(main)
