"""The list of checks, and running them into a report.

The card is checked last, as it tells what the report says. A report without
that check is written first, then the card that goes with the final report, then
that report. So a run that is killed never leaves a passing report beside a card
that was not seen, or that tells of another report. Of two runs on one export,
one waits for the other.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from absl import logging

from checks import accuracy
from checks import earlier_version
from checks import figures
from checks import html_report
from checks import latency
from checks import listed
from checks import numerics
from checks import pictures
from checks import pixels
from checks import report
from checks import structure
from checks import subject as subject_lib
from checks import trainability
from checks.forms import dispatch
from hub_export import archive
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from model_cards import render
from model_cards import validate

Check = listed.Check

# Those of the forms that can be fine-tuned; the others' are in checks.forms.
CHECKS = (
    Check("structure", "files", structure.files),
    Check("structure", "manifest", structure.manifest),
    Check("structure", "interface", structure.interface),
    Check("structure", "signatures", structure.signatures),
    Check("structure", "parameters", structure.parameters),
    Check("structure", "weights", structure.weights),
    Check("structure", "labels", structure.labels),
    Check("numerics", "golden", numerics.golden),
    Check("numerics", "batch_sizes", numerics.batch_sizes),
    Check("numerics", "image_sizes", numerics.image_sizes),
    Check("numerics", "repeatable", numerics.repeatable),
    Check("numerics", "image_bytes", numerics.image_bytes),
    Check("numerics", "preprocessing", pixels.preprocessing),
    Check("numerics", "features", numerics.feature_vector),
    Check("trainability", "gradients", trainability.gradients),
    Check("trainability", "moving_statistics", trainability.moving_statistics),
    Check("trainability", "endpoints", trainability.endpoints,
          kinds=("feature_extractor",)),
    Check("trainability", "mixed_precision", trainability.mixed_precision),
    Check("trainability", "fine_tuning", trainability.fine_tuning),
    Check("trainability", "mirrored", trainability.mirrored),
    Check("trainability", "save_and_reload", trainability.save_and_reload),
    Check("accuracy", "counting", accuracy.counting),
    Check("accuracy", "image_bytes", accuracy.image_bytes),
    Check("accuracy", "top1", accuracy.top1),
    Check("accuracy", "top5", accuracy.top5),
    Check("accuracy", "earlier", accuracy.earlier),
    Check("accuracy", "expected", accuracy.expected_top1),
    Check("accuracy", "same_as_classifier", accuracy.same_as_classifier,
          kinds=("feature_extractor",)),
)


class Progress:
  """What a run tells while it goes on; this one keeps silent."""

  def start(self, num_checks: int) -> None:
    """The run begins."""

  def check(self, group: str, name: str) -> None:
    """A check begins."""

  def result(self, result: report.CheckResult) -> None:
    """A check has ended."""

  def examples(self, done: int, total: int, correct: int) -> None:
    """The evaluation has come this far; so many were predicted rightly."""


def run(export_dir: pathlib.Path, *, dataset: str | None = None,
        split: str | None = None, data_dir: pathlib.Path | None = None,
        quick: bool = False, batch_size: int = 64, fresh: bool = False,
        expect_top1: float | None = None,
        progress: Progress | None = None) -> report.Report:
  """Checks an export, writes its report and renews its card.

  Runs in a process of its own: TensorFlow is set up here, with two logical
  processors.

  Args:
    export_dir: The directory of one version.
    dataset: TFDS name; by default the manifest's.
    split: By default the manifest's.
    data_dir: TFDS' directory; None for the data set's default.
    quick: Whether only report.QUICK_GROUPS are run, the others being
      `not_run`. A report of the same bytes for which all were run tells more:
      it is then kept as it is, and returned.
    batch_size: Images per step of the evaluation.
    fresh: Whether to evaluate every example anew, also those whose predictions
      by this export on this machine are kept.
    expect_top1: What top-1 has to be, in percent; see accuracy.expected_top1.
    progress: Is told how it goes.

  Returns:
    The report, as it lies beside the export.

  Raises:
    UsageError: if there is no data set or split of the names given.
    HubExportError: if there is no export, or the report cannot be written.
  """
  progress = progress or Progress()
  # Without this, report and card of "1/../2" or ".." would lie elsewhere.
  export_dir = pathlib.Path(os.path.abspath(export_dir))
  manifest = export_dirs.read_manifest(export_dir)
  with _manifest_errors(export_dir):
    subject = subject_lib.Subject(
        export_dir, manifest, dataset or manifest["dataset"]["name"],
        split or manifest["dataset"]["split"], data_dir, batch_size,
        progress.examples, fresh, expect_top1)
    checks = [c for c in _checks_of(manifest)
              if expect_top1 is not None or c.name != "expected"]
  if (dataset or split) and not quick:
    _look_up(subject)
  with _locked(export_dir):
    kept = _full_report(export_dir) if quick else None
    if kept:
      render.write_cards(export_dir)
      return kept
    return _run(subject, checks, quick, progress)


def _run(subject: subject_lib.Subject, checks: list[Check], quick: bool,
         progress: Progress) -> report.Report:
  """Runs checks and writes report and card; the export is locked."""
  started = datetime.datetime.now(datetime.timezone.utc)
  clock = time.monotonic()
  export_dir, manifest = subject.export_dir, subject.manifest
  export_sha256 = export_dirs.digest(export_dir)
  trainability.two_logical_devices()
  progress.start(len(checks) + 1)
  runner = _Runner(subject, quick, progress)
  results = runner.run(checks)
  if export_dirs.digest(export_dir) != export_sha256:
    raise errors.ChecksError(
        f"{export_dir} was changed while it was checked; nothing is reported. "
        "Check it again.")

  shown = _Shown(subject, runner.evaluation) if runner.evaluation else None
  packed = None if quick else _archive(export_dir)
  timed = None if quick else _latency(subject, results)
  dataset = _dataset(subject, runner.evaluation) if shown else None
  metrics = shown.figures.to_dict() if shown else None
  previous = earlier_version.changes(export_dir, manifest, metrics, dataset)

  def make(card: report.CheckResult) -> report.Report:
    return report.Report(
        handle=manifest["handle"], export_sha256=export_sha256,
        checks=(*results, card),
        dataset=dataset, metrics=metrics,
        environment=report.environment(trainability.has_onednn()),
        started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=round(time.monotonic() - clock, 1),
        archive=packed, latency=timed, previous=previous)

  progress.check("card", "card")
  final = _finish(export_dir, make, shown)
  progress.result(final.checks[-1])
  return final


def _archive(export_dir: pathlib.Path) -> dict[str, object]:
  sha256, num_bytes = archive.sha256(export_dir)
  return {"sha256": sha256, "bytes": num_bytes}


def _latency(subject: subject_lib.Subject,
             results: Iterable[report.CheckResult]
             ) -> dict[str, object] | None:
  """Returns the times of a module that works; of any other, None."""
  if any(r.status == report.FAILED for r in results):
    return None
  return latency.measure(subject)


def _look_up(subject: subject_lib.Subject) -> None:
  """Raises UsageError at once, not after minutes, if a name is misspelt."""
  trainability.two_logical_devices()  # To read data starts TensorFlow.
  try:
    _ = subject.evaluation_set
  except errors.UsageError:
    raise
  except errors.HubExportError:
    pass  # The accuracy checks tell it, beside what the others found.


def _checks_of(manifest: Mapping[str, object]) -> list[Check]:
  """Returns the checks of form and kind; of an unknown kind, what says so."""
  found = (CHECKS if forms.is_fine_tunable(manifest)
           else dispatch.checks(manifest["form"]))
  kind = manifest["kind"]
  if kind not in listed.BOTH:
    return [c for c in found if c.group == "structure"]
  return [c for c in found if kind in c.kinds]


@contextlib.contextmanager
def _locked(export_dir: pathlib.Path) -> Iterator[None]:
  """Holds the lock on an export, and tells if it has to wait for it."""
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(export_dirs.lock(export_dir, wait=False))
    except BlockingIOError:
      logging.warning("%s is in use by another run; waiting for it.",
                      export_dir)
      stack.enter_context(export_dirs.lock(export_dir))
    yield


def _full_report(export_dir: pathlib.Path) -> report.Report | None:
  """Returns the report of these bytes if it is a full one, and conclusive."""
  try:
    found = report.read(export_dirs.report_path(export_dir))
  except errors.ChecksError:  # None, or a damaged one: it is replaced.
    return None
  if (found.is_full and found.status in (report.PASSED, report.FAILED)
      and found.export_sha256 == export_dirs.digest(export_dir)):
    return found
  return None


class _Runner:
  """Runs checks one after the other, and the evaluation when it is needed."""

  def __init__(self, subject: subject_lib.Subject, quick: bool,
               progress: Progress):
    self.evaluation = None
    self._subject = subject
    self._quick = quick
    self._progress = progress
    self._no_evaluation = None  # Why there is none, a result.
    self._told_by = None  # The check that says why the model does not load.

  def run(self, checks: Iterable[Check]) -> list[report.CheckResult]:
    results = []
    for check in checks:
      self._progress.check(check.group, check.name)
      clock = time.monotonic()
      result = dataclasses.replace(
          self._told_once(check), group=check.group, name=check.name,
          seconds=round(time.monotonic() - clock, 2))
      self._progress.result(result)
      results.append(result)
    return results

  def _told_once(self, check: Check) -> report.CheckResult:
    """Returns a check's result; what does not load is one check's to tell."""
    try:
      result = self._result(check)
    except subject_lib.UnloadableError:
      return report.not_run("this needs a model that can be loaded; "
                            f"{self._told_by} says why this one cannot")
    if self._subject.is_unloadable and not self._told_by:
      self._told_by = f"{check.group}/{check.name}"
    return result

  def _result(self, check: Check) -> report.CheckResult:
    if self._quick and check.group not in report.QUICK_GROUPS:
      return report.not_run("left out of a quick check")
    if (self._subject.is_unloadable
        and check.group in ("trainability", "accuracy")):
      _ = self._subject.model  # Some load it themselves, or read data first.
    if check.group == "trainability":
      return guarded(lambda: self._train(check))
    if check.group != "accuracy":
      return guarded(lambda: check.function(self._subject))
    if not self.evaluation and not self._no_evaluation:
      self._no_evaluation = guarded(self._evaluate)
    return self._no_evaluation or guarded(
        lambda: check.function(self._subject, self.evaluation))

  def _train(self, check: Check) -> report.CheckResult:
    reason = trainability.unfit_reason(self._subject)
    return (report.not_run(reason) if reason
            else check.function(self._subject))

  def _evaluate(self) -> report.CheckResult | None:
    """Returns None, or the result of all checks if there is no evaluation."""
    try:
      self.evaluation = accuracy.run(self._subject)
    except errors.UnavailableError as e:
      return report.not_run(str(e))


def guarded(function: Callable[[], report.CheckResult]) -> report.CheckResult:
  """Returns the function's result; whatever it raises is a failed check."""
  try:
    return function()
  except subject_lib.UnloadableError:
    raise
  except errors.HubExportError as e:
    return report.failed(str(e))
  except Exception as e:  # pylint: disable=broad-exception-caught
    # A broken export may fail in any way; the other checks still tell more.
    # TensorFlow's messages have many lines; what happened may be in any.
    text = " ".join(str(e).split())
    return report.failed(f"{type(e).__name__}: {text[:600]}")


class _Shown:
  """The pictures and the page of an evaluation, beside the report."""

  def __init__(self, subject: subject_lib.Subject,
               evaluated: accuracy.Evaluated):
    self.figures = figures.figures(evaluated.predictions, evaluated.classes)
    self._subject = subject
    self._predictions = evaluated.predictions
    self._stem = export_dirs.evaluation_path(
        subject.export_dir, subject.evaluation_set.name,
        subject.evaluation_set.split, "")
    self._pictures = None

  def write(self, made: report.Report) -> None:
    """Writes the page that goes with a report, and the pictures once."""
    self._pictures = self._pictures or pictures.write(self.figures, self._stem)
    html_report.write(
        self._stem.with_name(self._stem.name + export_dirs.PAGE_SUFFIX),
        made.to_dict(), self._subject.manifest, self.figures,
        self._predictions, self._pictures)

  def sha256s(self) -> dict[str, str]:
    """Returns the hash of each file that was written, by its name."""
    parent = self._stem.parent
    return {f"{parent.name}/{name}": export_dirs.file_sha256(parent / name)
            for suffix in (*export_dirs.PICTURE_SUFFIXES,
                           export_dirs.PAGE_SUFFIX)
            if (parent / (name := self._stem.name + suffix)).is_file()}


def _finish(export_dir: pathlib.Path,
            make: Callable[[report.CheckResult], report.Report],
            shown: _Shown | None) -> report.Report:
  """Writes report, card and page so that each says what the others do."""
  clock = time.monotonic()

  def card(result: report.CheckResult) -> report.CheckResult:
    return dataclasses.replace(
        result, group="card", name="card",
        seconds=round(time.monotonic() - clock, 2))

  path = export_dirs.report_path(export_dir)
  pending = make(card(report.not_run("the card has not been judged yet")))
  report.write(pending, path)
  result = guarded(lambda: _card(export_dir, pending, shown))
  final = make(card(result))
  # The card tells the card's own status, so it changes once more.
  if result.status == report.PASSED:
    again = guarded(lambda: _final_card(export_dir, final))
    if again.status != report.PASSED:
      final = make(card(again))
  report.write(final, path)
  # The collection and the page tell of the final report as well.
  again = guarded(lambda: _card(export_dir, final, shown))
  if final.checks[-1].status == report.PASSED != again.status:
    final = make(card(again))
    report.write(final, path)
    guarded(lambda: _card(export_dir, final, shown))
  # The page tells what the report does but for its own hash, so that is last.
  if shown:
    final = dataclasses.replace(final, attachments=shown.sha256s())
    report.write(final, path)
  return final


def _card(export_dir: pathlib.Path, made: report.Report, shown: _Shown | None
          ) -> report.CheckResult:
  """Renews card and page; checks the card against manifest and report."""
  if shown:
    shown.write(made)
  render.write_cards(export_dir)
  path = export_dirs.card_path(export_dir)
  found = validate.problems(path.read_text("utf-8"),
                            export_dirs.read_manifest(export_dir),
                            made.to_dict(), path)
  return report.from_problems(
      found, "sound, and every number is the manifest's or the report's")


def _final_card(export_dir: pathlib.Path, made: report.Report
                ) -> report.CheckResult:
  """Writes the card of a report that is not on disk yet, if it is sound."""
  manifest = export_dirs.read_manifest(export_dir)
  record = json.loads(json.dumps(made.to_dict()))  # As it will be read.
  text = render.card_of(export_dir, manifest, record)
  path = export_dirs.card_path(export_dir)
  found = validate.problems(text, manifest, record, path)
  if not found:
    export_dirs.write_file(path, text)
  return report.from_problems(found, "sound")


def _dataset(subject: subject_lib.Subject, evaluation: accuracy.Evaluated
             ) -> dict[str, object]:
  opened = subject.evaluation_set
  return {"name": opened.name, "version": opened.version,
          "split": opened.split, "num_examples": opened.num_examples,
          "digest": evaluation.predictions.data_digest()}


@contextlib.contextmanager
def _manifest_errors(export_dir: pathlib.Path):
  """Turns a manifest without the most needed keys into one message."""
  try:
    yield
  except (KeyError, TypeError) as e:
    raise errors.HubExportError(
        f"{export_dir / export_dirs.MANIFEST} lacks {e}; expected a whole "
        "manifest. Export the checkpoint again.") from e
