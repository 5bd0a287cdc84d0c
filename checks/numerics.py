"""Checks that an export computes what its checkpoint says, everywhere.

Differences are measured in standard deviations of the outputs; see
subject.TOLERANCE.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf

from checks import report
from checks import subject as subject_lib
from hub_export import export_dirs

# Two programs that compute in float32 were seen to differ from float64 by as
# much as each other, up to a factor of 2.
_NOISE_FACTOR = 10
# However ill a network is conditioned, what differs by more is another one.
_GOLDEN_TOLERANCE = 1e-2


def golden(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the outputs of the images that were written with the export.

  They were computed from the checkpoint by other code than the export's, in
  float64. Networks of many layers may differ from that by more than others; how
  far float32 takes them from it is written with the outputs.
  """
  with np.load(subject.export_dir / export_dirs.GOLDEN,
               allow_pickle=False) as stored:
    images, expected = stored["images"], stored["outputs"]
  tolerance = max(min(_NOISE_FACTOR * golden_noise(subject), _GOLDEN_TOLERANCE),
                  subject.tolerance)
  worst = max(
      subject.difference(subject.model(tf.constant(images)), expected),
      subject.difference(_serve(subject, images), expected))
  result = _agreement(worst, f"{len(images)} golden outputs", tolerance,
                      images=len(images))
  if result.status == report.PASSED:
    return result
  return dataclasses.replace(
      result, message=f"{result.message}. "
      + _cause(subject, images, expected, tolerance))


def golden_noise(subject: subject_lib.Subject) -> float:
  """Returns how far float32 is off the golden outputs; 0 if nobody knows."""
  with np.load(subject.export_dir / export_dirs.GOLDEN,
               allow_pickle=False) as stored:
    return float(stored["noise"]) if "noise" in stored else 0.0


def _cause(subject: subject_lib.Subject, images: np.ndarray,
           expected: np.ndarray, tolerance: float) -> str:
  """Returns what, if anything, done to the images makes outputs golden."""
  prep = subject.preprocessing
  mean, std = np.float32(prep.mean), np.float32(prep.std)
  for change, changed in (
      ("their channels are reversed", images[..., ::-1]),
      ("they are mirrored", images[:, :, ::-1]),
      ("they are turned upside down", images[:, ::-1]),
      ("they are brought from [-1, 1] to [0, 1]", (images + 1) / 2),
      ("they are brought from [0, 255] to [0, 1]", images / 255),
      ("mean and std are applied to them", (images - mean) / std),
      ("mean and std are taken back from them", images * std + mean)):
    off = subject.difference(_serve(subject, changed), expected)
    if off <= tolerance:
      return f"They agree if, before the export gets the images, {change}"
  return ("No change of the images explains it. Expected the weights of the "
          "checkpoint, each in its place, and the padding and epsilon of its "
          "source")


def batch_sizes(subject: subject_lib.Subject, tolerance: float | None = None
                ) -> report.CheckResult:
  """Checks that an image's output does not depend on its company.

  Args:
    subject: The export.
    tolerance: Of the difference; by default the subject's.
  """
  size = subject.preprocessing.crop_px
  images = subject_lib.probe_images(8, size, size)
  expected = _serve(subject, images)
  worst = 0.0
  for batch in (1, 3):
    worst = max(worst, subject.difference(
        _serve(subject, images[-batch:]), expected[-batch:], scale=expected))
  return _agreement(worst, "batches of 1, 3 and 8",
                    tolerance or subject.tolerance)


def image_sizes(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that outputs are finite and shaped at sizes from the least up."""
  least, usual = subject.min_size_px, subject.preprocessing.crop_px
  sizes = dict.fromkeys([(least, least), (usual, usual),
                         (least + 3, usual + 32), (usual + 61, usual + 64)])
  problems = []
  for height, width in sizes:
    try:
      found = _serve(subject, subject_lib.probe_images(2, height, width))
    except tf.errors.OpError as e:
      problems.append(f"{height} x {width}: {e.message}")
      continue
    if found.shape != (2, subject.output_size):
      problems.append(f"{height} x {width}: shape {found.shape}")
    if not np.isfinite(found).all():
      problems.append(f"{height} x {width}: outputs that are not finite")
  shown = ", ".join(f"{height} x {width}" for height, width in sizes)
  return report.from_problems(problems, shown, sizes=len(sizes))


def repeatable(subject: subject_lib.Subject, tolerance: float | None = None
               ) -> report.CheckResult:
  """Checks that the same images give the same outputs, others not.

  Args:
    subject: The export.
    tolerance: Of the difference; by default the subject's.
  """
  size = subject.preprocessing.crop_px
  images = subject_lib.probe_images(4, size, size)
  first, second = _serve(subject, images), _serve(subject, images)
  worst = subject.difference(second, first)
  spread = float(np.ptp(first, axis=0).max())
  problems = []
  if worst > (tolerance or subject.tolerance):
    problems.append(f"the second time outputs differ by {worst:.1e} standard "
                    "deviations")
  if not spread > 0:
    problems.append("unlike images give the same outputs")
  return report.from_problems(problems, "the same images, the same outputs",
                              largest_difference=_finite(worst))


def image_bytes(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks `image_bytes` against decoding and preprocessing outside of it."""
  encoded = _encoded_images()
  return _as_outside(subject, list(encoded), list(encoded.values()),
                     ", ".join(encoded))


def samples(subject: subject_lib.Subject, file_names: Sequence[str],
            encoded: Sequence[bytes]) -> report.CheckResult:
  """Checks `image_bytes` in the same way, on examples of the evaluation.

  Args:
    subject: The export.
    file_names: Of the examples, for messages.
    encoded: The examples, as the data set stores them.
  """
  if not encoded:
    return report.not_run("there is no example to try; expected some of the "
                          "evaluation's")
  return _as_outside(subject, file_names, encoded,
                     f"{len(encoded)} examples, such as {file_names[0]}")


def _as_outside(subject: subject_lib.Subject, names: Sequence[str],
                encoded: Sequence[bytes], shown: str) -> report.CheckResult:
  """Returns whether `image_bytes` is preprocessing and `serving_default`.

  Args:
    subject: The export.
    names: Of the files, for people.
    encoded: JPEG or PNG files.
    shown: What they are, for the message if all is well.
  """
  pixels = []
  for name, file in zip(names, encoded, strict=True):
    try:
      pixels.append(subject.preprocessing.apply(tf.constant(file)).numpy())
    except tf.errors.InvalidArgumentError as e:
      return report.failed(f"{name} cannot be decoded: {e.message}",
                           images=len(encoded))
  expected = _serve(subject, np.stack(pixels))
  found = subject.signature("image_bytes")(
      image_bytes=tf.constant(list(encoded)))
  if not subject.is_classifier:
    worst = subject.difference(found["features"], expected)
    return _agreement(worst, shown, subject.tolerance, images=len(encoded))

  classes = found["classes"].numpy()
  probabilities = found["probabilities"].numpy()
  labels = [[name.decode() for name in row] for row in found["labels"].numpy()]
  wanted = _softmax(expected)
  k = min(5, subject.output_size)
  problems = []
  if classes.shape != (len(encoded), k):
    return report.failed(f"classes have the shape {classes.shape}; expected "
                         f"{(len(encoded), k)}")
  if classes.min() < 0 or classes.max() >= subject.output_size:
    return report.failed(f"classes go from {classes.min()} to {classes.max()}; "
                         f"expected 0 to {subject.output_size - 1}")
  if any(len(set(row)) != k for row in classes.tolist()):
    problems.append("a class comes twice for one image")
  if (np.diff(probabilities, axis=1) > 0).any():
    problems.append("probabilities do not descend")
  largest = 0.0
  for what, outside in (
      ("the probabilities of its classes",
       np.take_along_axis(wanted, classes, axis=1)),
      ("the highest probabilities", -np.sort(-wanted, axis=1)[:, :k])):
    # Of probabilities, which lie in [0, 1], the plain difference.
    off = np.abs(probabilities - outside).max(axis=1)
    largest = np.maximum(largest, off.max())
    if not off.max() <= subject.tolerance:
      problems.append(f"{what} differ by {off.max():.1e} from those outside, "
                      f"most for {names[off.argmax()]}")
  if labels != [[subject.labels[c] for c in row] for row in classes]:
    problems.append("labels are not those of the classes in labels.txt")
  return report.from_problems(
      problems, f"as outside for {shown}", images=len(encoded),
      largest_difference=_finite(float(largest)))


def feature_vector(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that features are what the classifier's last layer takes."""
  size = subject.preprocessing.crop_px
  images = subject_lib.probe_images(4, size, size)
  if not subject.is_classifier:
    return _endpoints(subject, images)
  kernel, bias = subject_lib.head(subject.model)
  features = subject.signature("feature_vector")(
      images=tf.constant(images))["features"].numpy()
  worst = subject.difference(features @ kernel + bias,
                                 _serve(subject, images))
  return _agreement(worst, "features through the last layer",
                    subject.tolerance)


def _endpoints(subject: subject_lib.Subject, images: np.ndarray
               ) -> report.CheckResult:
  """Checks a feature extractor's `return_endpoints` at inference."""
  problems = endpoint_problems(subject, subject.model, images, training=False)
  features = subject.model(tf.constant(images), return_endpoints=False)
  worst = subject_lib.difference(features, _serve(subject, images))
  if worst > subject_lib.TOLERANCE:
    problems.append(f"a call's features differ by {worst:.1e} standard "
                    "deviations from the signature's")
  names = ", ".join(subject.manifest["outputs"]["endpoints"])
  return report.from_problems(problems, f"with endpoints {names}",
                              largest_difference=_finite(worst))


def endpoint_problems(subject: subject_lib.Subject, model: Any,
                      images: np.ndarray, training: bool) -> list[str]:
  """Returns what is wrong with calls with and without `return_endpoints`.

  Args:
    subject: The feature extractor.
    model: It, loaded; with `training` its moving statistics are changed.
    images: float32 [batch, height, width, 3], unlike each other.
    training: Passed on to the model.
  """
  channels = subject.manifest["outputs"]["endpoints"]
  features = np.asarray(model(
      tf.constant(images), training=training, return_endpoints=False))
  problems = []
  if features.shape != (len(images), subject.output_size):
    problems.append(f"features have the shape {features.shape}, expected "
                    f"{(len(images), subject.output_size)}")
  if not np.isfinite(features).all():
    problems.append("features are not finite")
  found = model(tf.constant(images), training=training, return_endpoints=True)
  if not isinstance(found, Mapping) or set(found) != {"features", *channels}:
    seen = sorted(found) if isinstance(found, Mapping) else "one tensor"
    return problems + [f"endpoints are {seen}; expected "
                       f"{sorted({'features', *channels})}"]
  height, width = images.shape[1:3]
  for name in sorted(channels):
    value = found[name].numpy()
    if value.ndim != 4 or value.shape[::3] != (len(images), channels[name]):
      problems.append(
          f"{name} has the shape {value.shape}, expected {len(images)} images "
          f"and {channels[name]} channels")
      continue
    # By how much depends on the padding of each checkpoint's source.
    if not (value.shape[1] < height and value.shape[2] < width):
      problems.append(
          f"{name} is {value.shape[1]} x {value.shape[2]}; expected less than "
          f"the {height} x {width} before it")
    height, width = value.shape[1:3]
    if not np.isfinite(value).all():
      problems.append(f"{name} is not finite")
    elif not np.ptp(value, axis=(0, 1, 2)).any():
      problems.append(f"{name} is the same everywhere and for all images")
  for what, value in (("features beside endpoints", found["features"]),
                      ("means of the last endpoint",
                       found[max(channels)].numpy().mean(axis=(1, 2)))):
    off = subject_lib.difference(value, features)
    if not off <= subject_lib.TOLERANCE:
      problems.append(f"{what} differ from the features by {off:.1e} standard "
                      "deviations")
  return problems


def _serve(subject: subject_lib.Subject, images: np.ndarray) -> np.ndarray:
  """Returns what `serving_default` makes of images."""
  outputs = subject.signature("serving_default")(images=tf.constant(images))
  return outputs[subject.output].numpy()


def _agreement(worst: float, what: str,
               tolerance: float, **figures: float) -> report.CheckResult:
  """Returns passed if the difference is tolerable."""
  if worst <= tolerance:
    return report.passed(
        f"{what} agree within {worst:.1e} standard deviations",
        largest_difference=worst, **figures)
  return report.failed(
      f"{what} differ by {worst:.1e} standard deviations of the outputs; "
      f"expected at most {tolerance:.0e}",
      largest_difference=_finite(worst), **figures)


def _finite(value: float) -> float:
  """Returns `value`, or -1 where JSON has no number for it."""
  return value if np.isfinite(value) else -1.0


def _softmax(logits: np.ndarray) -> np.ndarray:
  shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
  return shifted / shifted.sum(axis=1, keepdims=True)


def _encoded_images() -> dict[str, bytes]:
  """Returns colour and grey images in odd sizes, by a name for people."""
  encoded = {}
  for index, (name, mode, file_format, width, height) in enumerate([
      ("colour JPEG", "RGB", "JPEG", 301, 227),
      ("grey JPEG", "L", "JPEG", 65, 99),
      ("colour PNG", "RGB", "PNG", 53, 240),
      ("grey PNG", "L", "PNG", 8, 8)]):
    pixels = subject_lib.probe_images(1, height, width, seed=index)[0] * 255
    image = PIL.Image.fromarray(pixels.round().astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    encoded[name] = buffer.getvalue()
  return encoded
