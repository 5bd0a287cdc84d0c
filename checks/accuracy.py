"""Checks of top-1 and top-5 on a validation split, every example once."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from checks import evaluation as evaluation_lib
from checks import evaluation_sets
from checks import numerics
from checks import predictions as predictions_lib
from checks import recount
from checks import report
from checks import subject as subject_lib
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms


# Points that a figure may be off where the preprocessing is the same.
EXPECTED_TOLERANCE = 0.1
# Samples come from so many parts of a split, so many of each: to open a part
# takes as long as to read hundreds of examples.
_PARTS, _SAMPLES_PER_PART = 4, 4
# In standard deviations of an example's logits: where the two best are closer,
# another runtime, or form of the network, may order them otherwise.
_FLIP_MARGIN = 2 * subject_lib.TOLERANCE
# Fifth and sixth class are as good as equal if their probabilities differ by no
# more than this share.
_SAME_SHARE = 1e-3


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """An export's evaluation, and that of the classifier beside it."""
  evaluation: evaluation_lib.Evaluation
  companion: predictions_lib.Predictions | None  # Of a feature extractor.
  classes: tuple[str, ...]                       # Of the logits.

  @property
  def predictions(self) -> predictions_lib.Predictions:
    return self.evaluation.predictions


def run(subject: subject_lib.Subject) -> Evaluated:
  """Returns the evaluation of an export on its split.

  A feature extractor's features go through the last layer of its classifier,
  which is evaluated first, unless that has been done.

  Raises:
    UnavailableError: if the data set, or a feature extractor's classifier, is
      not there.
    HubExportError: as evaluation.evaluate.
  """
  directory = evaluation_lib.head_dir(subject.export_dir, subject.manifest)
  companion = None
  if directory != subject.export_dir:
    companion = evaluation_lib.evaluate(
        evaluation_lib.load(directory, subject.batch_size),
        subject.evaluation_set, subject.on_examples, subject.fresh).predictions
  model = evaluation_lib.load(subject.export_dir, subject.batch_size,
                               subject.model)
  return Evaluated(
      evaluation_lib.evaluate(model, subject.evaluation_set,
                              subject.on_examples, subject.fresh),
      companion, model.classes)


def counting(subject: subject_lib.Subject, evaluation: Evaluated
             ) -> report.CheckResult:
  """Checks that every example of the split was counted, once."""
  found, opened = evaluation.predictions, subject.evaluation_set
  counted = int(found.has_label.sum())
  good = f"{len(found):,} examples of {opened.name}/{opened.split}, each once"
  if counted != len(found):
    good += f"; {counted:,} have a label and count"
  return report.from_problems(
      counting_problems(found, opened, evaluation.evaluation.num_classes), good,
      examples=len(found))


def counting_problems(found: predictions_lib.Predictions,
                      opened: evaluation_sets.EvaluationSet, num_classes: int
                      ) -> list[str]:
  """Returns what is wrong with the examples that were counted.

  Args:
    found: Their predictions.
    opened: Where they are from.
    num_classes: How many classes could be predicted.
  """
  n, unlike = len(found), len(set(found.file_names))
  expected = opened.num_examples
  split = f"{opened.name}/{opened.split}"
  problems = []
  if n != expected:
    problems.append(f"{n:,} examples of {split} were read; expected "
                    f"{expected:,}. Prepare the data set again.")
  if unlike != n:
    problems.append(f"{n - unlike} file names of {split} come more than once; "
                    "expected each example once. Prepare the data set again.")
  if not found.has_label.any():
    problems.append(f"no example of {split} has a label")
  return problems + recount.problems(found, num_classes)


def image_bytes(subject: subject_lib.Subject, evaluation: Evaluated
                ) -> report.CheckResult:
  """Checks the signature `image_bytes` on examples from all over the split."""
  del evaluation  # As the other checks.
  return numerics.samples(subject, *samples(subject))


def samples(subject: subject_lib.Subject) -> tuple[list[str], list[bytes]]:
  """Returns names and files of examples from all over the split."""
  names, encoded = [], []
  for i in range(_PARTS):
    part = subject.evaluation_set.examples((i, _PARTS)).take(_SAMPLES_PER_PART)
    for example in part.as_numpy_iterator():
      names.append(example["file_name"].decode())
      encoded.append(example["image"])
  return names, encoded


def top1(subject: subject_lib.Subject, evaluation: Evaluated
         ) -> report.CheckResult:
  """Checks top-1 against the reported one."""
  reported = subject.manifest["reported_accuracy"]
  if not reported:
    return report.not_run(
        f"measured {_percent(evaluation.predictions.top1)}, but the manifest "
        "has no reported accuracy to compare with. Export again with "
        "--reported_top1.")
  own = subject.manifest["dataset"]
  if (subject.dataset, subject.split) != (own["name"], own["split"]):
    return report.not_run(
        f"measured {_percent(evaluation.predictions.top1)} on "
        f"{subject.dataset}/{subject.split}, but the reported accuracy is for "
        f"{own['name']}/{own['split']}. Check with that, too.")
  return _compare(evaluation.predictions.top1, reported["top1"], reported,
                  forms.loss(subject.manifest))


def top5(subject: subject_lib.Subject, evaluation: Evaluated
         ) -> report.CheckResult:
  """Checks top-5 against the reported one, if there is one, and top-1."""
  rate = evaluation.predictions.top5
  if rate.correct < evaluation.predictions.top1.correct:
    return report.failed(f"top-5 is {_percent(rate)}, less than top-1")
  reported = subject.manifest["reported_accuracy"] or {}
  own = subject.manifest["dataset"]
  if (reported.get("top5") is None
      or (subject.dataset, subject.split) != (own["name"], own["split"])):
    return report.passed(f"{_percent(rate)}; none is reported for this split",
                         measured=rate.to_dict()["value"])
  return _compare(rate, reported["top5"], reported,
                  forms.loss(subject.manifest))


def same_as_classifier(subject: subject_lib.Subject, evaluation: Evaluated
                       ) -> report.CheckResult:
  """Checks that features through the last layer predict as the classifier."""
  ours, theirs = evaluation.predictions, evaluation.companion
  differ = ours.top[:, 0] != theirs.top[:, 0]
  # Where two logits are as good as equal, either may come first.
  flips = differ & (theirs.margins > subject.tolerance)
  problems = []
  if flips.any():
    names = [ours.file_names[i] for i in np.flatnonzero(flips)[:3]]
    problems.append(f"{flips.sum()} predictions differ, such as those for "
                    f"{', '.join(names)}")
  if forms.loss(subject.manifest):
    # What is rounded on purpose takes one of many unlikely classes for another.
    return report.from_problems(
        problems, f"the same {len(ours):,} predictions but for near ties",
        flips=int(flips.sum()))
  # The same classes in another order do not matter to top-5.
  differ = (np.sort(ours.top) != np.sort(theirs.top)).any(axis=1)
  last, other = ours.probabilities[:, -1], theirs.probabilities[:, -1]
  unlike = differ & (np.abs(last - other) > _SAME_SHARE * other)
  if unlike.any():
    names = [ours.file_names[i] for i in np.flatnonzero(unlike)[:3]]
    problems.append(f"the best five of {unlike.sum()} examples are others, "
                    f"such as those of {', '.join(names)}")
  return report.from_problems(
      problems, f"the same {len(ours):,} predictions", flips=int(flips.sum()))


def expected_top1(subject: subject_lib.Subject, evaluation: Evaluated
             ) -> report.CheckResult:
  """Checks top-1 against what the user expects, within 0.1 points."""
  return _compare(evaluation.predictions.top1, subject.expect_top1, {
      "tolerance": EXPECTED_TOLERANCE, "source": "--expect_top1"})


def earlier(subject: subject_lib.Subject, evaluation: Evaluated
            ) -> report.CheckResult:
  """Checks that the same weights were right for the same examples before.

  Compared are the evaluation of this export before, if it was not used again,
  and those of other versions and forms of the same weights that lie in the same
  output directory.
  On the same runtime, the counts are the same; on another, predictions may
  flip where two logits are nearly equal, and are listed.
  """
  ours = evaluation.predictions
  problems, flips, seen = [], [], 0
  for name, theirs, same_runtime in _earlier(subject, evaluation):
    seen += 1
    flipped = np.flatnonzero(ours.top[:, 0] != theirs.top[:, 0])
    off = _percent(theirs.top1), _percent(theirs.top5)
    if same_runtime and (ours.top1, ours.top5) != (theirs.top1, theirs.top5):
      problems.append(
          f"{name} had {off[0]} top-1 and {off[1]} top-5 with the same weights "
          f"on the same runtime; here {_percent(ours.top1)} and "
          f"{_percent(ours.top5)}")
    # Nearly equal logits may change places, others not.
    wide = flipped[np.minimum(ours.margins, theirs.margins)[flipped]
                   > _FLIP_MARGIN]
    if len(wide):
      problems.append(
          f"{name} predicted otherwise with the same weights where the logits "
          f"differ plainly: {_listed(ours, wide)}")
    elif len(flipped):
      flips.append(f"{len(flipped)} predictions differ from those of {name}: "
                   f"{_listed(ours, flipped)}")
  good = (f"{seen} earlier evaluations of these weights agree" if seen else
          "there is no earlier evaluation of these weights to compare with")
  return report.from_problems(problems, "; ".join([good, *flips]),
                              earlier=seen)


def _earlier(subject: subject_lib.Subject, evaluation: Evaluated):
  """Yields (name, predictions, whether on the same runtime) on these data."""
  run = evaluation.evaluation
  data = evaluation.predictions.data_digest()
  if run.earlier is not None and run.earlier.data_digest() == data:
    kept = evaluation_lib.earlier_path(export_dirs.evaluation_path(
        subject.export_dir, run.context["dataset"], run.context["split"],
        ".parquet"))
    yield (f"the evaluation before (kept as {kept.name})", run.earlier,
           _same_runtime(run.earlier_context, run.context))
  ours = subject.manifest
  for theirs, found, about in _siblings(subject, evaluation):
    # What is rounded by intent predicts otherwise now and then; `loss` has it.
    if forms.loss(ours) == forms.loss(theirs):
      yield (theirs["handle"], found, _same_runtime(about, run.context)
             and ours["form"] == theirs["form"])


def _siblings(subject: subject_lib.Subject, evaluation: Evaluated):
  """Yields manifest, predictions and context of the same weights elsewhere."""
  run = evaluation.evaluation
  data = evaluation.predictions.data_digest()
  ours = subject.manifest
  for path in sorted(subject.export_dir.parents[1].glob(
      "*/*/" + str(export_dirs.MANIFEST))):
    export_dir = path.parents[1]
    if export_dir == subject.export_dir:
      continue
    try:
      theirs = export_dirs.read_manifest(export_dir)
      if any(ours[key] != theirs[key]
             for key in ("kind", "preprocessing", "weights")):
        continue
      found, about = predictions_lib.read(export_dirs.evaluation_path(
          export_dir, run.context["dataset"], run.context["split"],
          ".parquet"))
      # What was left of another export of that name is not its evaluation.
      if (about["exports_sha256"][0] != export_dirs.digest(export_dir)
          or found.data_digest() != data):
        continue
    except (errors.HubExportError, FileNotFoundError, KeyError):
      continue
    yield theirs, found, about


def loss(subject: subject_lib.Subject, evaluation: Evaluated
         ) -> report.CheckResult:
  """Checks that a rounded form loses no more than its card says.

  It is held against evaluations of the same weights in exact forms that lie in
  the same output directory; without any, against the reported accuracy, which
  the checks of top-1 and top-5 do.
  """
  allowed = forms.loss(subject.manifest)
  if allowed is None:
    return report.passed("nothing is rounded on purpose; the checks of top-1 "
                         "and of earlier evaluations have the accuracy")
  ours = evaluation.predictions
  problems, seen = [], []
  for theirs, found, _ in _siblings(subject, evaluation):
    if forms.loss(theirs):
      continue
    for name, mine, exact in (("top-1", ours.top1, found.top1),
                              ("top-5", ours.top5, found.top5)):
      lost = 100 * (exact.correct - mine.correct) / exact.total
      seen.append(lost)
      if lost > allowed.top1_points + 1e-9:
        problems.append(
            f"{name} is {_percent(mine)}, that of {theirs['handle']} "
            f"{_percent(exact)}: {lost:.2f} points are lost; expected at most "
            f"{allowed.top1_points}")
  if seen:
    return report.from_problems(
        problems, f"at most {max(seen):.2f} points less than in an exact form",
        largest_loss=max(seen))
  if subject.manifest["reported_accuracy"]:
    return report.passed("no exact form of these weights was evaluated in the "
                         "same directory; top1 has the reported accuracy")
  return report.not_run(
      "there is neither a reported accuracy nor an evaluation of an exact form "
      "of these weights in the same output directory. Export that with the same "
      "--output_dir and check it first.")


def _same_runtime(a: Mapping, b: Mapping) -> bool:
  return all(a[key] == b[key]
             for key in ("runtime", "batch_size", "code_sha256"))


def _listed(found: predictions_lib.Predictions, indices: np.ndarray) -> str:
  names = [found.file_names[i] for i in indices[:3]]
  more = len(indices) - len(names)
  return ", ".join(names) + (f" and {more} more" if more else "")


def _compare(rate: report.Rate, expected: float, reported: Mapping,
             loss: forms.Loss | None = None) -> report.CheckResult:
  """Returns whether a rate is as reported, within the stated tolerance.

  Args:
    rate: What was measured.
    expected: In percent.
    reported: The manifest's record.
    loss: What the form may lose beyond the tolerance.
  """
  value = rate.to_dict()["value"]
  tolerance = f"{reported['tolerance']} points"
  allowed = reported["tolerance"]
  if loss:
    allowed += loss.top1_points
    tolerance += f" and {loss.top1_points} that this form may lose"
  # A hair for the binary fractions of percentages.
  if abs(value - expected) <= allowed + 1e-9:
    return report.passed(
        f"{_percent(rate)}, reported {expected:.6g} %, tolerance {tolerance}",
        measured=value, reported=expected)
  return report.failed(
      f"measured {_percent(rate)}, but {expected:.6g} % is reported "
      f"({reported['source']}); expected within {tolerance}",
      measured=value, reported=expected)


def _percent(rate: report.Rate) -> str:
  return (f"{100 * rate.correct / rate.total:.2f} % "
          f"({rate.correct:,} of {rate.total:,})")
