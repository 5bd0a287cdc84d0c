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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf


# Of the training images of ImageNet-1k, as torchvision's references have them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PARALLEL = 64  # Images of a batch decoded at once, by as many cores.
_LARGEST_PX = 65_535  # The side of the largest JPEG.
# The default, TensorFlow's fastest, is off by 1.2 of 255 on average.
_DCT = "INTEGER_ACCURATE"
# By how much a window is decoded wider than what is used of it: where colour is
# stored in a lower resolution, it is interpolated, and at a window's edge
# libjpeg-turbo lacks the neighbour. One pixel was seen to differ.
_EDGE_PX = 2
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
# Keys' cubic has a = -0.5, as PIL's.
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}  # Of these, in pixels.


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
    """Returns the decoded, resized and cropped image as a module takes it.

    Args:
      encoded: string scalar, a JPEG, PNG or still GIF file. Grey becomes RGB;
        an alpha channel is dropped; EXIF orientation is ignored, as by PIL.

    Returns:
      float32 [crop_px, crop_px, 3], RGB in [0, 1], multiples of 1/255.

    Raises:
      tf.errors.InvalidArgumentError: if the bytes are no such image, or end
        too early, or no step resizes an image that is smaller than the crop.
    """
    return to_unit_range(self.pixels(encoded))

  def apply_batch(self, encoded: tf.Tensor) -> tf.Tensor:
    """As `apply`, for string [batch] to float32 [batch, crop, crop, 3]."""
    spec = tf.TensorSpec([self.crop_px, self.crop_px, 3], tf.uint8)
    return to_unit_range(tf.map_fn(
        self.pixels, encoded, fn_output_signature=spec,
        parallel_iterations=_PARALLEL))

  def pixels(self, encoded: tf.Tensor) -> tf.Tensor:
    """As `apply`, but uint8 in [0, 255]: a quarter of the memory in a queue.

    `to_unit_range` makes of it, or of a batch, what a module takes.
    """
    earlier, last = self.resizes, None
    if earlier and earlier[-1].antialias and not earlier[-1].jpeg:
      *earlier, last = earlier
    if earlier:
      image = tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT)
      for resize in earlier:
        image = _resize(image, resize)
      geometry = _geometry(tf.shape(image)[:2], last, self.crop_px)
      image = _cut(image, geometry.low, geometry.extent)
    else:
      image, geometry = _decode_window(
          encoded, lambda shape: _geometry(shape, last, self.crop_px))
    if last is not None:
      image = _resample(image, geometry, last)
    else:
      image = _cut(image, -tf.cast(geometry.offset, tf.int32), geometry.size)
    return tf.ensure_shape(image, [self.crop_px, self.crop_px, 3])

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


class _Geometry(NamedTuple):
  """Which part of an image a resized and cropped one is made of.

  All fields are [height, width].
  """
  low: tf.Tensor     # int32 [2]: first row and column that are read.
  extent: tf.Tensor  # int32 [2]: rows and columns from there; the outermost
                     # _EDGE_PX are not needed unless they are the image's.
  scale: tf.Tensor   # float32 [2]: new size / old size of the whole image.
  offset: tf.Tensor  # float32 [2]: where the part begins, in pixels of what
                     # comes out, which begins at 0.
  size: tf.Tensor    # int32 [2]: of what comes out.


def to_unit_range(pixels: tf.Tensor) -> tf.Tensor:
  """Returns float32 in [0, 1] for uint8 in [0, 255], of any shape."""
  return tf.cast(pixels, tf.float32) / 255.0


def _geometry(shape: tf.Tensor, resize: Resize | None, crop_px: int | None
              ) -> _Geometry:
  """Returns what to take of an image of a shape, int32 [2].

  Args:
    shape: Height and width of the whole image.
    resize: The step before the crop; None for the crop alone.
    crop_px: Side of the centre crop; None for no crop.
  """
  new = shape if resize is None else _new_size(shape, resize)
  size = new if crop_px is None else tf.constant([crop_px, crop_px])
  old = tf.cast(shape, tf.float64)
  scale = tf.cast(new, tf.float64) / old
  # tf.round rounds half to even, as Python's round in torchvision does.
  corner = tf.round(tf.cast(new - size, tf.float64) / 2)
  # Filters look so far to each side of a pixel's centre, in old pixels.
  reach = _EDGE_PX + (0.0 if resize is None else _RADIUS[resize.interpolation]
                      * tf.maximum(1 / scale, 1.0))
  low = tf.floor((corner + 0.5) / scale - reach)
  high = tf.math.ceil((corner + tf.cast(size, tf.float64) - 0.5) / scale
                      + reach)
  low, high = tf.maximum(low, 0), tf.minimum(high, old)
  # The offset is small, what it is the difference of may not be: only here
  # float32 is enough.
  return _Geometry(
      low=tf.cast(low, tf.int32), extent=tf.cast(high - low, tf.int32),
      scale=tf.cast(scale, tf.float32),
      offset=tf.cast(low * scale - corner, tf.float32), size=size)


def _new_size(shape: tf.Tensor, resize: Resize) -> tf.Tensor:
  """Returns the size, int32 [2], that a step gives an image of a shape."""
  if resize.mode == "squash":
    return tf.constant([resize.size_px, resize.size_px])
  # Whole pixels: the long side loses its fraction, as int() does.
  sides = tf.cast(shape, tf.int64)
  return tf.cast(resize.size_px * sides // tf.reduce_min(sides), tf.int32)


def _decode_window(encoded: tf.Tensor,
                   plan: Callable[[tf.Tensor], _Geometry]
                   ) -> tuple[tf.Tensor, _Geometry]:
  """Returns a part of an image, and which it is.

  Of a JPEG file only that part is decoded, and comes out as it is in the whole
  image but for its outermost pixel.

  Args:
    encoded: string scalar, a JPEG, PNG or still GIF file.
    plan: Gives the part for a shape, int32 [2].

  Returns:
    uint8 [*extent, 3].
  """
  def window():
    geometry = plan(tf.io.extract_jpeg_shape(encoded)[:2])
    image = tf.image.decode_and_crop_jpeg(
        encoded, tf.concat([geometry.low, geometry.extent], 0), channels=3,
        dct_method=_DCT)
    return image, geometry

  def whole():
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT)
    geometry = plan(tf.shape(image)[:2])
    return _cut(image, geometry.low, geometry.extent), geometry

  # What comes after the window is not read, so that a missing end goes
  # unnoticed; in a JPEG's compressed data its end mark cannot occur.
  is_whole_jpeg = tf.logical_and(
      tf.equal(tf.strings.substr(encoded, 0, 3), _JPEG_START),
      tf.equal(tf.strings.substr(encoded, -2, 2), _JPEG_END))
  return tf.cond(is_whole_jpeg, window, whole)


def _cut(image: tf.Tensor, low: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
  """Returns the part of an image from `low` on; both int32 [2]."""
  return tf.slice(image, tf.concat([low, [0]], 0), tf.concat([extent, [3]], 0))


def _resample(image: tf.Tensor, geometry: _Geometry, resize: Resize
              ) -> tf.Tensor:
  """Returns an image resized with antialias, uint8 [*geometry.size, 3].

  Horizontally first, with rounding in between, as PIL does. Both passes have
  what they do not touch innermost, which is several times as fast as resizing
  pixels of three channels in one go (and that differs from PIL by 0.18 of 255
  on average, this by less than 0.001).

  Args:
    image: uint8 [*geometry.extent, 3], the part that `geometry` tells.
    geometry: Where it lies, and what to make of it.
    resize: The step, whose filter is used.
  """
  height = geometry.extent[0]
  new_height, new_width = tf.unstack(geometry.size)
  rows = tf.reshape(image, [height, -1])            # [height, width * 3]
  columns = tf.reshape(tf.transpose(rows), [-1, 3 * height])
  columns = _resample_axis(columns, geometry, 1, resize)
  columns = tf.reshape(columns, [new_width * 3, height])
  rows = _resample_axis(tf.transpose(columns), geometry, 0, resize)
  return tf.reshape(rows, [new_height, new_width, 3])


def _resample_axis(lines: tf.Tensor, geometry: _Geometry, axis: int,
                   resize: Resize) -> tf.Tensor:
  """Returns uint8 [new, n] for uint8 [old, n], resized along that axis."""
  resized = tf.raw_ops.ScaleAndTranslate(
      images=lines[tf.newaxis, tf.newaxis],
      size=tf.stack([1, geometry.size[axis]]),
      scale=tf.stack([1.0, geometry.scale[axis]]),
      translation=tf.stack([0.0, geometry.offset[axis]]),
      kernel_type=_KERNELS[resize.interpolation], antialias=True)
  return _rounded(resized[0, 0])


def _rounded(values: tf.Tensor) -> tf.Tensor:
  """Returns uint8, as near as it gets to float32 values."""
  return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)


def _resize(image: tf.Tensor, resize: Resize) -> tf.Tensor:
  """Returns uint8 [h, w, 3] for uint8 [h, w, 3]: a whole step, uncropped."""
  if resize.antialias:
    image = _resample(image, _geometry(tf.shape(image)[:2], resize, None),
                      resize)
  else:
    image = _rounded(tf.image.resize(
        image, _new_size(tf.shape(image)[:2], resize), resize.interpolation))
  if resize.jpeg:
    image = tf.io.decode_jpeg(tf.io.encode_jpeg(image), channels=3,
                              dct_method=_DCT)
  return image
