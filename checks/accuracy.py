"""Checks of top-1 and top-5 on a validation split, every example once."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_hub as hub

from checks import evaluation_sets
from checks import report
from checks import subject as subject_lib
from hub_export import errors
from hub_export import export_dirs
from hub_export import labels as known_labels


@dataclasses.dataclass(frozen=True)
class Predictions:
  """What a model said about every example of a split."""
  file_names: tuple[str, ...]
  labels: np.ndarray   # int64 [n].
  top: np.ndarray      # int32 [n, min(5, classes)], best first.
  margins: np.ndarray  # float32 [n]: best less second best logit, in standard
                       # deviations of the example's logits.

  @property
  def top1(self) -> report.Rate:
    return report.Rate(int((self.top[:, 0] == self.labels).sum()),
                       len(self.labels))

  @property
  def top5(self) -> report.Rate:
    hits = (self.top == self.labels[:, None]).any(axis=1)
    return report.Rate(int(hits.sum()), len(self.labels))


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """A finished evaluation."""
  predictions: Predictions
  companion: Predictions | None  # For a feature extractor, the classifier's.
  digest: str                    # Over file names and labels.


Predict = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


def run(subject: subject_lib.Subject) -> Evaluation:
  """Returns the evaluation of an export on its split.

  A feature extractor's features go through the last layer of its classifier,
  which is evaluated beside it.

  Raises:
    UnavailableError: if the data set, or a feature extractor's classifier, is
      not there.
    HubExportError: if the classes are not those of the export, or as `predict`.
  """
  model = subject.model
  if subject.is_classifier:
    classes = subject.labels
    predictors = lambda images: {"export": model(images)}
  else:
    if not subject.manifest["companion"]:
      raise errors.UnavailableError(
          "the checkpoint has no classifier head, so there is nothing to "
          "measure accuracy with; such an extractor cannot be published yet. "
          "Export a checkpoint that has a head.")
    companion = subject.companion()
    if companion is None:
      raise errors.UnavailableError(
          "the classifier of the same weights is not in "
          f"{subject.export_dir.parents[2]}; its last layer is needed to "
          "evaluate features. Export it there, too.")
    classifier = hub.load(str(companion))
    classes = (companion / export_dirs.LABELS).read_text("utf-8").splitlines()
    kernel, bias = subject_lib.head(classifier)
    predictors = lambda images: {
        "export": tf.matmul(model(images), kernel) + bias,
        "companion": classifier(images)}
  evaluation_set = subject.evaluation_set
  _check_classes(tuple(classes), evaluation_set)
  found = predict(predictors, evaluation_set, subject.preprocessing.apply,
                  subject.preprocessing.crop_px, subject.batch_size,
                  subject.on_example)
  predictions = found["export"]
  pairs = zip(predictions.file_names, predictions.labels.tolist())
  return Evaluation(predictions, found.get("companion"),
                    evaluation_sets.digest(pairs))


def predict(predictors: Predict, evaluation_set: evaluation_sets.EvaluationSet,
            decode: Callable[[tf.Tensor], tf.Tensor], size_px: int,
            batch_size: int, on_example: Callable[[int, int], None]
            ) -> dict[str, Predictions]:
  """Returns the predictions of one or more models on every example.

  Every batch has `batch_size` images: the last one is filled up with zeros,
  whose outputs are dropped.

  Args:
    predictors: Images float32 [batch, size, size, 3] to logits by name.
    evaluation_set: The examples.
    decode: An encoded image to float32 [size, size, 3].
    size_px: The size that `decode` gives.
    batch_size: Images per step.
    on_example: Called with the number of examples done and their total.

  Raises:
    HubExportError: if a logit is not finite, an image cannot be decoded, or
      there is no example. Whether it is each one once, `counting` tells.
  """
  total = evaluation_set.num_examples
  dataset = evaluation_set.examples().map(
      lambda e: e | {"image": decode(e["image"])},
      num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  dataset = dataset.batch(batch_size).prefetch(2)
  names, labels = [], []
  top, margins = {}, {}
  try:
    for batch in dataset:
      n = int(batch["labels"].shape[0])
      images = tf.pad(tf.ensure_shape(
          batch["image"], [None, size_px, size_px, 3]),
                      [[0, batch_size - n], [0, 0], [0, 0], [0, 0]])
      for name, logits in predictors(images).items():
        logits = logits.numpy()[:n]
        if not np.isfinite(logits).all():
          raise errors.HubExportError(
              f"logits that are not finite, from example {len(names)} on; "
              "expected numbers")
        best = tf.math.top_k(logits, min(5, logits.shape[1]))
        top.setdefault(name, []).append(best.indices.numpy())
        # Of a single class, its own: nothing else can come first.
        gap = best.values[:, 0] - best.values[:, :2][:, -1]
        margins.setdefault(name, []).append(
            gap.numpy() / np.maximum(logits.std(axis=1), 1e-30))
      names += [file_name.decode() for file_name in batch["file_name"].numpy()]
      labels += batch["labels"].numpy()[:, 0].tolist()
      on_example(len(names), total)
  except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as e:
    raise errors.HubExportError(
        f"an example after the {len(names)} first of {evaluation_set.name} "
        f"cannot be read ({e.message}); expected an encoded image. Prepare the "
        "data set again.") from e
  if not names:
    raise errors.HubExportError(
        f"no example of {evaluation_set.name}/{evaluation_set.split} was read; "
        f"expected {total:,}. Prepare the data set again.")
  return {name: Predictions(tuple(names), np.array(labels, np.int64),
                            np.concatenate(top[name]),
                            np.concatenate(margins[name])) for name in top}


def counting(subject: subject_lib.Subject, evaluation: Evaluation
             ) -> report.CheckResult:
  """Checks that every example of the split was counted, once."""
  names = evaluation.predictions.file_names
  n, unlike = len(names), len(set(names))
  expected = subject.evaluation_set.num_examples
  split = f"{subject.dataset}/{subject.split}"
  problems = []
  if n != expected:
    problems.append(f"{n:,} examples of {split} were read; expected "
                    f"{expected:,}. Prepare the data set again.")
  if unlike != n:
    problems.append(f"{n - unlike} file names of {split} come more than once; "
                    "expected each example once. Prepare the data set again.")
  return report.from_problems(
      problems, f"{n:,} examples of {split}, each once", examples=n)


def top1(subject: subject_lib.Subject, evaluation: Evaluation
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
  return _compare(evaluation.predictions.top1, reported["top1"], reported)


def top5(subject: subject_lib.Subject, evaluation: Evaluation
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
  return _compare(rate, reported["top5"], reported)


def same_as_classifier(subject: subject_lib.Subject, evaluation: Evaluation
                       ) -> report.CheckResult:
  """Checks that features through the last layer predict as the classifier."""
  del subject  # As the other checks.
  ours, theirs = evaluation.predictions, evaluation.companion
  differ = ours.top[:, 0] != theirs.top[:, 0]
  # Where two logits are as good as equal, either may come first.
  flips = differ & (theirs.margins > subject_lib.TOLERANCE)
  problems = []
  if flips.any():
    names = [ours.file_names[i] for i in np.flatnonzero(flips)[:3]]
    problems.append(f"{flips.sum()} predictions differ, such as those for "
                    f"{', '.join(names)}")
  for name, a, b in (("top-1", ours.top1, theirs.top1),
                     ("top-5", ours.top5, theirs.top5)):
    if a != b:
      problems.append(f"{name} counts {a.correct} correct, the classifier "
                      f"{b.correct}")
  return report.from_problems(
      problems, f"the same {len(differ):,} predictions", flips=int(flips.sum()))


def _compare(rate: report.Rate, expected: float, reported: Mapping
             ) -> report.CheckResult:
  """Returns whether a rate is as reported, within the stated tolerance."""
  value = rate.to_dict()["value"]
  # A hair for the binary fractions of percentages.
  if abs(value - expected) <= reported["tolerance"] + 1e-9:
    return report.passed(
        f"{_percent(rate)}, reported {expected:.6g} %, tolerance "
        f"{reported['tolerance']} points", measured=value, reported=expected)
  return report.failed(
      f"measured {_percent(rate)}, but {expected:.6g} % is reported "
      f"({reported['source']}); expected within {reported['tolerance']} points",
      measured=value, reported=expected)


def _percent(rate: report.Rate) -> str:
  return (f"{100 * rate.correct / rate.total:.2f} % "
          f"({rate.correct:,} of {rate.total:,})")


def _check_classes(classes: tuple[str, ...],
                   evaluation_set: evaluation_sets.EvaluationSet) -> None:
  """Raises HubExportError unless a data set's classes are the export's."""
  wanted = evaluation_set.class_names
  if classes == wanted:
    return
  name = evaluation_set.name
  if known_labels.known(name) or len(classes) != len(wanted):
    raise errors.HubExportError(
        f"the export's classes are not those of {name}: {len(classes)} "
        f"({', '.join(classes[:3])}, ...) against {len(wanted)} "
        f"({', '.join(wanted[:3])}, ...). Choose a data set with the export's "
        "classes, in the same order.")
  different = [f"class {i} is {a!r}, there {b!r}"
               for i, (a, b) in enumerate(zip(classes, wanted)) if a != b]
  raise errors.HubExportError(errors.join_problems(
      f"the export's classes are not those of {name}", different[:3],
      "Choose a data set with the export's classes, in the same order."))
