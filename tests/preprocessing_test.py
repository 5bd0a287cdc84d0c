"""Tests of the preprocessing, with PIL and plain numpy as outside references.

PIL and torchvision are what most published figures were measured with; the
arithmetic of torchvision's transforms (Resize to the short side, CenterCrop) is
written out below: torchvision/transforms/functional.py.
"""

import io
import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from hub_export import preprocessing
from hub_export.regnet import catalog

# Mean absolute difference, of 255. TensorFlow resizes in float32, PIL in fixed
# point: where it comes out near a half, and that is often when enlarging, a
# pixel is rounded the other way. A crop off by one pixel makes about 10.
_TOLERANCE = 0.1
# TensorFlow cuts off colour * black / 255, PIL rounds it.
_CMYK_TOLERANCE = 0.6
_FILTERS = {"bilinear": PIL.Image.Resampling.BILINEAR,
            "bicubic": PIL.Image.Resampling.BICUBIC}
_ROTATED = 6  # EXIF orientation: to be turned by 90 degrees.


def _photo(width, height, channels=3):
  """Returns uint8 [height, width, channels]: waves, an edge, some noise."""
  y, x = np.mgrid[:height, :width].astype(float)
  y, x = y / height, x / width
  random = np.random.default_rng(width * 1000 + height)
  planes = [
      120 + 70 * np.sin(9 * x + i) * np.cos((5 + i) * y) + 40 * (x > 0.4 + y / 4)
      for i in range(channels)]
  noise = random.normal(0, 12, (height, width, channels))
  return np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)


def _encoded(image, kind="JPEG", **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def _exif():
  exif = PIL.Image.Exif()
  exif[0x0112] = _ROTATED
  return exif


def _rgb(width, height):
  return PIL.Image.fromarray(_photo(width, height))


FILES = {
    "landscape": lambda: _encoded(_rgb(500, 375), quality=92),
    "portrait, odd": lambda: _encoded(_rgb(333, 417), quality=85),
    "square": lambda: _encoded(_rgb(300, 300), quality=75),
    "no chroma subsampling": lambda: _encoded(
        _rgb(301, 270), quality=90, subsampling=0),
    "narrow": lambda: _encoded(_rgb(900, 120), quality=90),
    "small": lambda: _encoded(_rgb(60, 45), quality=95),
    "progressive": lambda: _encoded(
        _rgb(400, 299), quality=90, progressive=True),
    "grey": lambda: _encoded(
        PIL.Image.fromarray(_photo(411, 300, 1)[..., 0]), quality=90),
    "CMYK": lambda: _encoded(
        PIL.Image.fromarray(_photo(320, 400, 4), mode="CMYK"), quality=90),
    "EXIF-rotated": lambda: _encoded(
        _rgb(420, 300), quality=90, exif=_exif()),
    "PNG": lambda: _encoded(_rgb(351, 289), "PNG"),
    "RGBA PNG": lambda: _encoded(
        PIL.Image.fromarray(_photo(310, 350, 4), mode="RGBA"), "PNG"),
    "grey PNG": lambda: _encoded(
        PIL.Image.fromarray(_photo(301, 350, 1)[..., 0]), "PNG"),
    "palette PNG": lambda: _encoded(_rgb(400, 310).quantize(64), "PNG"),
}


def _open(encoded):
  return PIL.Image.open(io.BytesIO(encoded)).convert("RGB")


def _resized(image, size_px, interpolation):
  """As torchvision.transforms.Resize(size_px)."""
  width, height = image.size
  short, long = min(width, height), max(width, height)
  new_long = int(size_px * long / short)
  new = (size_px, new_long) if width <= height else (new_long, size_px)
  return image.resize(new, _FILTERS[interpolation])


def _cropped(pixels, size_px):
  """As torchvision.transforms.CenterCrop(size_px)."""
  height, width = pixels.shape[:2]
  top = int(round((height - size_px) / 2.0))
  left = int(round((width - size_px) / 2.0))
  return pixels[top:top + size_px, left:left + size_px]


def _difference(got, expected):
  """Returns the mean absolute difference, of 255."""
  assert got.dtype == np.float32 and got.shape == expected.shape
  return np.abs(got * 255.0 - expected).mean()


def _steps(size_px, crop_px, interpolation, mode="shorter", antialias=True,
           jpeg=False):
  return preprocessing.Preprocessing((preprocessing.Resize(
      mode, size_px, interpolation, antialias, jpeg),), crop_px)


class TestAgainstPil:

  @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
  @pytest.mark.parametrize("name", FILES)
  def test_shorter_side_then_crop(self, name, interpolation):
    encoded = FILES[name]()
    got = _steps(128, 112, interpolation).apply(encoded).numpy()
    expected = _cropped(
        np.asarray(_resized(_open(encoded), 128, interpolation)), 112)
    tolerance = _CMYK_TOLERANCE if name == "CMYK" else _TOLERANCE
    assert _difference(got, expected) <= tolerance
    # What the tolerance is worth on this image.
    assert _difference(got, np.roll(expected, 1, 1)) > 5 * tolerance

  @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
  @pytest.mark.parametrize("name", ["landscape", "portrait, odd", "small"])
  def test_squash(self, name, interpolation):
    encoded = FILES[name]()
    got = _steps(97, 97, interpolation, "squash").apply(encoded).numpy()
    expected = np.asarray(_open(encoded).resize(
        (97, 97), _FILTERS[interpolation]))
    assert _difference(got, expected) <= _TOLERANCE

  @pytest.mark.parametrize("name", ["landscape", "narrow", "grey"])
  def test_two_steps(self, name):
    steps = (preprocessing.Resize("shorter", 200, "bicubic", True),
             preprocessing.Resize("squash", 64, "bilinear", True))
    encoded = FILES[name]()
    got = preprocessing.Preprocessing(steps, 60).apply(encoded).numpy()
    image = _resized(_open(encoded), 200, "bicubic")
    image = image.resize((64, 64), _FILTERS["bilinear"])
    assert _difference(got, _cropped(np.asarray(image), 60)) <= _TOLERANCE

  def test_through_a_jpeg(self):
    encoded = FILES["PNG"]()
    got = _steps(150, 150, "bilinear", "squash", jpeg=True).apply(encoded)
    image = _open(encoded).resize((150, 150), _FILTERS["bilinear"])
    # TensorFlow's encoder: quality 95, chroma in half the resolution.
    expected = np.asarray(_open(_encoded(image, quality=95, subsampling=2)))
    # Where one pixel differs by one, much of its block of 64 may.
    assert _difference(got.numpy(), expected) <= 2 * _TOLERANCE
    assert _difference(got.numpy(), np.asarray(image)) > 10 * _TOLERANCE

  def test_values_are_whole_255ths(self):
    got = _steps(128, 112, "bicubic").apply(FILES["landscape"]()).numpy()
    assert got.min() >= 0 and got.max() <= 1
    np.testing.assert_allclose(got * 255, np.round(got * 255), atol=1e-4)


class TestCrop:
  """On a picture whose pixels say where they are, not resized."""

  @staticmethod
  def _grid(width, height):
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, x * 0 + 7], -1).astype(np.uint8)

  # torchvision's int(round(rest / 2)): Python rounds 0.5 to 0, 1.5 to 2.
  @pytest.mark.parametrize("width, height, left, top", [
      (64, 64, 0, 0), (65, 66, 0, 1), (67, 68, 2, 2), (69, 64, 2, 0),
      (71, 70, 4, 3), (64, 81, 0, 8), (200, 103, 68, 20)])
  def test_corner(self, width, height, left, top):
    grid = self._grid(width, height)
    encoded = _encoded(PIL.Image.fromarray(grid), "PNG")
    got = preprocessing.Preprocessing((), 64).apply(encoded).numpy() * 255
    expected = grid[top:top + 64, left:left + 64]
    np.testing.assert_allclose(got, expected, atol=1e-4)

  @pytest.mark.parametrize("width, height", [(63, 80), (80, 63), (30, 30)])
  def test_smaller_than_the_crop(self, width, height):
    encoded = _encoded(PIL.Image.fromarray(self._grid(width, height)), "PNG")
    with pytest.raises(tf.errors.InvalidArgumentError):
      preprocessing.Preprocessing((), 64).apply(encoded)

  # 100 * 101 / 75 is 134.67 and loses its fraction, so 134 - 90 = 44 is cut;
  # rounded up it would be 45 and the corner at 22, as in a picture of 135.
  def test_long_side_loses_its_fraction(self):
    image = _rgb(101, 75)
    got = _steps(100, 90, "bilinear").apply(_encoded(image, "PNG")).numpy()
    right = _cropped(np.asarray(image.resize((134, 100), 2)), 90)
    wrong = _cropped(np.asarray(image.resize((135, 100), 2)), 90)
    assert _difference(got, right) <= _TOLERANCE
    assert _difference(got, wrong) > 10 * _TOLERANCE


def _numpy_bilinear(pixels, height, width):
  """Returns uint8 [height, width, 3]: two neighbours each way, no antialias.

  Pixels' centres lie at halves: output i looks at (i + 0.5) * in / out - 0.5.
  """
  def neighbours(size, new):
    at = (np.arange(new) + 0.5) * size / new - 0.5
    low = np.floor(at).astype(int)
    return (np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1),
            (at - low)[:, None])
  low, high, share = neighbours(pixels.shape[1], width)
  rows = pixels[:, low] * (1 - share) + pixels[:, high] * share
  low, high, share = neighbours(pixels.shape[0], height)
  share = share[..., None]
  return np.round(rows[low] * (1 - share) + rows[high] * share).astype(np.uint8)


class TestRegnety:
  """The regnety project's figures: 512x512, a JPEG, 320x320, the central 224."""

  @pytest.mark.parametrize("name", ["landscape", "small", "PNG"])
  def test_plain_bilinear(self, name):
    encoded = FILES[name]()
    got = _steps(83, 80, "bilinear", "squash", antialias=False).apply(encoded)
    pixels = _numpy_bilinear(np.asarray(_open(encoded)), 83, 83)
    assert _difference(got.numpy(), _cropped(pixels, 80)) <= _TOLERANCE

  def test_whole_chain(self):
    steps = catalog.SOURCES["regnety"].preprocessing
    encoded = FILES["portrait, odd"]()
    got = steps.apply(encoded).numpy()
    pixels = _numpy_bilinear(np.asarray(_open(encoded)), 512, 512)
    pixels = np.asarray(_open(_encoded(
        PIL.Image.fromarray(pixels), quality=95, subsampling=2)))
    pixels = _numpy_bilinear(pixels, 320, 320)
    assert got.shape == (224, 224, 3)
    assert _difference(got, _cropped(pixels, 224)) <= 2 * _TOLERANCE


class TestGraph:

  def test_function_and_batch_are_the_same(self):
    steps = _steps(128, 112, "bicubic")
    files = [FILES[name]() for name in ("landscape", "grey", "palette PNG")]
    eager = np.stack([steps.apply(f).numpy() for f in files])
    traced = tf.function(
        steps.apply, input_signature=[tf.TensorSpec([], tf.string)])
    # In a graph the division becomes a multiplication: one unit in the last
    # place, where pixels are 4e-3 apart.
    np.testing.assert_allclose(
        np.stack([traced(f).numpy() for f in files]), eager, atol=1e-7)
    assert traced.get_concrete_function().output_shapes == [112, 112, 3]
    np.testing.assert_allclose(steps.apply_batch(tf.constant(files)), eager, atol=1e-7)
    assert steps.apply_batch(tf.constant([], tf.string)).shape == [0, 112, 112,
                                                                   3]

  @pytest.mark.parametrize("damage", [
      lambda f: b"", lambda f: b"not an image", lambda f: f[:len(f) // 2],
      lambda f: b"\0" * 100 + f[100:]],
      ids=["empty", "text", "truncated", "no header"])
  @pytest.mark.parametrize("name", ["landscape", "PNG"])
  def test_damaged_file(self, name, damage):
    with pytest.raises(tf.errors.InvalidArgumentError):
      _steps(64, 64, "bilinear").apply(damage(FILES[name]()))


RECORD = {
    "resizes": [
        {"mode": "squash", "size_px": 512, "interpolation": "bilinear",
         "antialias": False, "jpeg": True},
        {"mode": "shorter", "size_px": 256, "interpolation": "bicubic",
         "antialias": True, "jpeg": False}],
    "crop_px": 224,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def _changed(**changes):
  return {**RECORD, "resizes": [
      RECORD["resizes"][0], {**RECORD["resizes"][1], **changes}]}


class TestRecord:

  def test_round_trip(self):
    steps = preprocessing.from_dict(RECORD)
    assert steps == preprocessing.Preprocessing(
        (preprocessing.Resize("squash", 512, "bilinear", False, True),
         preprocessing.Resize("shorter", 256, "bicubic", True)), 224,
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert json.loads(json.dumps(steps.to_dict())) == RECORD
    assert preprocessing.from_dict(steps.to_dict()) == steps

  def test_crop_as_large_as_the_image(self):
    assert preprocessing.from_dict({**RECORD, "crop_px": 256}).crop_px == 256

  @pytest.mark.parametrize("record, message", [
      (_changed(mode="longer"), "longer"),
      (_changed(interpolation="lanczos"), "lanczos"),
      (_changed(size_px=0), "size_px"),
      (_changed(size_px="256"), "size_px"),
      (_changed(size_px=256.5), "size_px"),
      (_changed(size_px=True), "size_px"),
      (_changed(antialias="no"), "antialias"),
      (_changed(jpeg=None), "jpeg"),
      (_changed(quality=95), "quality"),
      ({**RECORD, "crop_px": 257}, "257"),
      ({**RECORD, "crop_px": 0}, "crop_px"),
      ({**RECORD, "crop_px": None}, "crop_px"),
      ({**RECORD, "mean": 0.5}, "mean"),
      ({**RECORD, "mean": [0.5, 0.5]}, "mean"),
      ({**RECORD, "std": [0.2, 0.2, 0.0]}, "std"),
      ({**RECORD, "std": [0.2, 0.2, float("nan")]}, "std"),
      ({**RECORD, "std": ["a", 0.2, 0.2]}, "could not convert"),
      ({"resizes": [], "mean": [0, 0, 0], "std": [1, 1, 1]}, "crop_px"),
      ({"resizes": [], "crop_px": 224, "mean": [0, 0, 0]}, "std"),
      ({"crop_px": 224}, "resizes"),
      ({**RECORD, "resizes": [{"mode": "squash"}]}, "size_px"),
      ({**RECORD, "resizes": 3}, "not a preprocessing record"),
      ({**RECORD, "resizes": ["squash"]}, "not a preprocessing record"),
      ([], "not a preprocessing record"),
      (None, "not a preprocessing record"),
  ])
  def test_bad_record(self, record, message):
    with pytest.raises(ValueError, match=message):
      preprocessing.from_dict(record)

  def test_bad_values_are_refused_when_made(self):
    with pytest.raises(ValueError, match="65.*64"):
      _steps(64, 65, "bilinear")
    with pytest.raises(ValueError, match="area"):
      _steps(64, 64, "area")
