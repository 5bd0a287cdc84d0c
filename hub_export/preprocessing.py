"""The one definition of how an encoded image becomes what a model is fed.

What a checkpoint's published accuracy was measured with belongs to the
checkpoint: it is written into the manifest, traced into the `image_bytes`
signature and run by the evaluation, all from the same record.

The arithmetic follows PIL and torchvision, which most published figures come
from: accurate DCT when decoding, the short side resized and the long one cut
down to whole pixels, the crop's corner rounded half to even, and pixels rounded
to whole numbers after resizing.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


# Of the training images of ImageNet-1k, as torchvision's references have them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LARGEST_PX = 65_535  # The side of the largest JPEG.


@dataclasses.dataclass(frozen=True)
class Resize:
  """One resizing step."""
  mode: str           # "shorter": that side to `size_px`, aspect ratio kept;
                      # "squash": both sides to `size_px`.
  size_px: int
  interpolation: str  # "bilinear" or "bicubic".
  antialias: bool     # PIL does, tf.image.resize by default does not.
  jpeg: bool = False  # Whether the result went through a JPEG file (quality
                      # 95, TensorFlow's default) before the next step.

  def __post_init__(self):
    """Raises ValueError if a field has no such value."""
    if (self.mode not in ("shorter", "squash")
        or self.interpolation not in ("bilinear", "bicubic")):
      raise ValueError(f"unknown mode or interpolation in {self}")
    if not _is_size(self.size_px):
      raise ValueError(
          f"size_px is no whole number from 1 to {_LARGEST_PX} in {self}")
    if not (isinstance(self.antialias, bool) and isinstance(self.jpeg, bool)):
      raise ValueError(f"antialias or jpeg is neither true nor false in {self}")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """From encoded bytes to what the network normalises and convolves.

  Steps in order, then the crop: pixels in [0, 1], which is what a module takes.
  By `mean` and `std` it normalises them inside; they stand here because they
  belong to the checkpoint like the rest.
  """
  resizes: tuple[Resize, ...]
  crop_px: int        # Side of the centre crop, which is what the model sees.
  mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # R, G, B on the scale of [0, 1].
  std: tuple[float, ...] = (1.0, 1.0, 1.0)   # The same.

  def __post_init__(self):
    """Raises ValueError if a field has no such value."""
    if not _is_size(self.crop_px):
      raise ValueError(
          f"crop_px {self.crop_px!r} is no whole number from 1 to "
          f"{_LARGEST_PX}")
    for name in ("mean", "std"):
      values = getattr(self, name)
      if len(values) != 3 or not all(
          isinstance(v, float) and math.isfinite(v) for v in values):
        raise ValueError(f"{name} {values!r} is not three finite numbers")
    if min(self.std) <= 0:
      raise ValueError(f"std {self.std!r} has a value of 0 or below")
    if self.resizes and self.crop_px > self.resizes[-1].size_px:
      raise ValueError(
          f"crop_px {self.crop_px} is more than the {self.resizes[-1].size_px} "
          "pixels that the last step leaves of the short side")

  def apply(self, encoded: tf.Tensor) -> tf.Tensor:
    """Returns the decoded, resized and cropped image.

    Args:
      encoded: string scalar, a JPEG, PNG or still GIF file. Grey becomes RGB;
        an alpha channel is dropped; EXIF orientation is ignored, as by PIL.

    Returns:
      float32 [crop_px, crop_px, 3], RGB in [0, 1], multiples of 1/255.

    Raises:
      tf.errors.InvalidArgumentError: if the bytes are no such image.
    """
    image = tf.io.decode_jpeg(encoded, channels=3,
                              dct_method="INTEGER_ACCURATE")
    for resize in self.resizes:
      image = _resize(image, resize)
    image = _centre_crop(image, self.crop_px)
    return tf.cast(image, tf.float32) / 255.0

  def apply_batch(self, encoded: tf.Tensor) -> tf.Tensor:
    """As `apply`, for string [batch] to float32 [batch, crop, crop, 3]."""
    spec = tf.TensorSpec([self.crop_px, self.crop_px, 3], tf.float32)
    return tf.map_fn(self.apply, encoded, fn_output_signature=spec)

  def to_dict(self) -> dict[str, Any]:
    """Returns the record as it stands in a manifest."""
    return dataclasses.asdict(self) | {
        "resizes": [dataclasses.asdict(r) for r in self.resizes],
        "mean": list(self.mean), "std": list(self.std)}


def from_dict(record: Mapping[str, Any]) -> Preprocessing:
  """Returns the preprocessing of a manifest's record; the way back.

  Raises:
    ValueError: if a field is missing, unknown or has no such value.
  """
  try:
    resizes = tuple(Resize(**r) for r in record["resizes"])
    mean, std = (tuple(map(float, record[name])) for name in ("mean", "std"))
    return Preprocessing(
        **{**record, "resizes": resizes, "mean": mean, "std": std})
  except (TypeError, KeyError) as e:
    raise ValueError(f"not a preprocessing record ({e}): {record}") from e


def _is_size(value: Any) -> bool:
  return (isinstance(value, int) and not isinstance(value, bool) and
          1 <= value <= _LARGEST_PX)


def _resize(image: tf.Tensor, resize: Resize) -> tf.Tensor:
  """Returns uint8 [h, w, 3] for uint8 [h, w, 3]."""
  height, width = tf.unstack(tf.shape(image)[:2])
  size = tf.constant(resize.size_px)
  if resize.mode == "squash":
    new = [size, size]
  else:
    short = tf.minimum(height, width)
    # Whole pixels: the long side loses its fraction, as int() does.
    new = [size * height // short, size * width // short]
  # PIL, which antialiases, rounds between the two directions.
  steps = [[height, new[1]], new] if resize.antialias else [new]
  for step in steps:
    resized = tf.image.resize(image, step, resize.interpolation,
                              antialias=resize.antialias)
    image = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
  if resize.jpeg:
    image = tf.io.decode_jpeg(tf.io.encode_jpeg(image), channels=3,
                              dct_method="INTEGER_ACCURATE")
  return image


def _centre_crop(image: tf.Tensor, size: int) -> tf.Tensor:
  """Returns the central [size, size, 3]; no side may be shorter."""
  shape = tf.shape(image)[:2]
  # tf.round rounds half to even, as Python's round in torchvision does.
  top, left = tf.unstack(tf.cast(
      tf.round(tf.cast(shape - size, tf.float32) / 2), tf.int32))
  image = image[top:top + size, left:left + size]
  return tf.ensure_shape(image, [size, size, 3])
