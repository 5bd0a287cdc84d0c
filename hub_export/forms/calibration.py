"""What 8-bit activations are scaled by: ranges measured on real images.

TensorFlow's own calibrator runs its reference kernels, of which the grouped
convolution takes 10 s per image in a RegNetY-600MF. Here the float model gives
all its activations as outputs and runs as users run it, in hundredths of that.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from hub_export import errors
from hub_export import forms
from hub_export import preprocessing
from hub_export import program
from hub_export.forms import tflite_file

_TRAIN = "train"
# Of a range. What is 0 for all images, as a squeeze of few channels may be, has
# none, and XNNPACK refuses a model with a step of 0.
_LEAST_WIDTH = 0.01
_SUFFIXES = (".jpg", ".jpeg", ".png")
_IMAGES_FLAG = "--calibration_images"
# Of the split, that examples are taken from: to open one takes a while.
_PARTS = 10


@dataclasses.dataclass(frozen=True)
class Calibration:
  """Images to calibrate on."""
  source: str                  # For people: "optical_digits/train".
  files: tuple[bytes, ...]     # JPEG or PNG.
  names: tuple[str, ...]       # Of the files, for messages.
  preprocessing: preprocessing.Preprocessing

  def images(self) -> Iterator[np.ndarray]:
    """Yields float32 [1, size, size, 3] in [0, 1], one for each file.

    Raises:
      HubExportError: if a file is no image, or too small.
    """
    for name, file in zip(self.names, self.files, strict=True):
      try:
        yield self.preprocessing.apply(tf.constant(file)).numpy()[np.newaxis]
      except tf.errors.InvalidArgumentError as e:
        raise errors.HubExportError(
            f"the calibration image {name} cannot be read "
            f"({_told(e.message)}); expected a JPEG or PNG "
            f"file of at least {self.preprocessing.crop_px} pixels a side. "
            "Replace or remove it.") from e

  def record(self) -> dict[str, object]:
    """Returns what the manifest has of it."""
    digest = hashlib.sha256()
    for file in self.files:
      digest.update(hashlib.sha256(file).digest())
    return {"source": self.source, "examples": len(self.files),
            "sha256": digest.hexdigest()}


def from_directory(directory: pathlib.Path, examples: int,
                   prep: preprocessing.Preprocessing) -> Calibration:
  """Returns images of the user's own, evenly chosen from all in a directory.

  Args:
    directory: With JPEG and PNG files, at any depth.
    examples: How many to take; all where there are fewer.
    prep: From files to what the network takes.

  Raises:
    HubExportError: if there are too few images, or they cannot be read.
  """
  try:
    found = sorted(
        pathlib.Path(parent, name)
        for parent, _, names in os.walk(directory, onerror=_raise)
        for name in names if name.lower().endswith(_SUFFIXES))
    if not found:
      raise errors.HubExportError(
          f"{_IMAGES_FLAG}={directory} has no images; expected files that end "
          f"in {', '.join(_SUFFIXES)}. Name a directory of images like those "
          "that the model will see.")
    chosen = [found[i] for i in _evenly(len(found), examples)]
    files = tuple(p.read_bytes() for p in chosen)
  except OSError as e:
    raise errors.HubExportError(
        f"{_IMAGES_FLAG}={directory} cannot be read ({e.strerror}: "
        f"{e.filename}); expected a directory of images. Correct the "
        "path.") from e
  _check_number(files, f"{_IMAGES_FLAG}={directory}")
  return Calibration("images of the exporter", files,
                     tuple(str(p) for p in chosen), prep)


def from_dataset(name: str, examples: int, prep: preprocessing.Preprocessing,
                 data_dir: pathlib.Path | None = None) -> Calibration:
  """Returns examples from all over a data set's training split.

  Never of the split that is evaluated: the accuracy would be of images that
  the model was fitted to.

  Args:
    name: As evaluation_sets.open takes it.
    examples: How many to take; all where there are fewer.
    prep: From files to what the network takes.
    data_dir: TFDS' directory; None for the default.

  Raises:
    UnavailableError: if it is not on this machine, or has no such split.
    HubExportError: if that has too few images.
  """
  # The data sets are the evaluation's affair; nothing else of it is needed.
  from checks import evaluation_sets  # pylint: disable=g-import-not-at-top
  try:
    opened = evaluation_sets.open(name, _TRAIN, data_dir)
  except errors.HubExportError as e:
    raise errors.UnavailableError(
        "int8 needs images to measure the range of every activation, and the "
        f"training data of {name} cannot be had ({e}). Expected that, or "
        f"images like those that the model will see: give a directory of them "
        f"with {_IMAGES_FLAG}=DIR, or choose another --quantization.") from e
  wanted = min(examples, opened.num_examples)
  parts = min(_PARTS, wanted)
  files, names = [], []
  # Part by part, so that of a large split little is read.
  with program.quiet_start():
    for index in range(parts):
      count = wanted * (index + 1) // parts - wanted * index // parts
      part = opened.examples((index, parts)).take(count)
      for example in part.as_numpy_iterator():
        files.append(example["image"])
        names.append(example["file_name"].decode())
  _check_number(files, f"the split {_TRAIN} of {opened.name}")
  return Calibration(f"{opened.name}/{_TRAIN}", tuple(files), tuple(names),
                     prep)


def ranges(content: bytes, images: Iterable[np.ndarray],
           threads: int | None = None
           ) -> dict[int, tuple[float, float]]:
  """Returns the least and largest value of every activation of a float model.

  Args:
    content: The model, a .tflite file with one input of images.
    images: float32 [1, size, size, 3] in [0, 1].
    threads: How many to run it with; by default as many as there are cores.

  Returns:
    Tensor -> (low, high). The input's is [0, 1] whatever the images, so that
    its 256 steps are the pixels' own.

  Raises:
    HubExportError: if there is no image, or an activation is not finite.
  """
  exposed, shown = tflite_file.exposing(content)
  with program.quiet_start():  # XNNPACK says that it is there.
    runner = tflite_file.interpreter().Interpreter(
        model_content=exposed, num_threads=threads or os.cpu_count() or 1)
    runner.allocate_tensors()
  source = runner.get_input_details()[0]["index"]
  shape = None
  low, high = np.full(len(shown), np.inf), np.full(len(shown), -np.inf)
  for image in images:
    if image.shape != shape:
      shape = image.shape
      runner.resize_tensor_input(source, shape)
      runner.allocate_tensors()
    runner.set_tensor(source, image)
    runner.invoke()
    for place, index in enumerate(shown):
      values = runner.get_tensor(index)
      low[place] = np.minimum(low[place], values.min())
      high[place] = np.maximum(high[place], values.max())
  if not (np.isfinite(low).all() and np.isfinite(high).all()):
    raise errors.HubExportError(
        "the calibration found activations that are not finite, or had no "
        "image; expected numbers. Check the checkpoint and the images.")
  high = np.maximum(high, low + _LEAST_WIDTH)
  return {source: (0.0, 1.0),
          **{index: (float(l), float(h))
             for index, l, h in zip(shown, low, high)}}


def _check_number(files: Sequence[bytes], where: str) -> None:
  """Raises HubExportError if there are too few files unlike each other."""
  unlike, fewest = len(set(files)), forms.FEWEST_CALIBRATION_EXAMPLES
  if unlike < fewest:
    raise errors.HubExportError(
        f"{where} has {unlike} unlike images to calibrate on; expected at "
        f"least {fewest}, as ranges of fewer cut off what others need. Add "
        "images like those that the model will see.")


def _evenly(count: int, wanted: int) -> list[int]:
  """Returns up to `wanted` numbers below `count`, evenly spread."""
  wanted = min(count, wanted)
  return [count * i // wanted for i in range(wanted)]


def _told(message: str) -> str:
  """Returns one of TensorFlow's messages without where in it that was."""
  return " ".join(re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", message).split())[:200]


def _raise(error: OSError) -> None:
  raise error
