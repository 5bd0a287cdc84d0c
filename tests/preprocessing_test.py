"""Tests of the preprocessing, with PIL and plain numpy as outside references.

PIL and torchvision are what most published figures were measured with; the
arithmetic of torchvision's transforms (Resize to the short side, CenterCrop) is
written out below: torchvision/transforms/functional.py.
"""

import io
import json
import pathlib

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
# On photographs scaled down, where a half is rare: seen were 0.011, without
# rounding between the two directions 0.18, with any greater fault more.
_PHOTO_TOLERANCE = 0.02
_PHOTO_BIAS = 0.01
_PHOTO_LARGEST = 1
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


PHOTOS = pathlib.Path(__file__).parent / "fixtures" / "images"


def _photograph(name):
  """Returns a photograph, as decoded by PIL."""
  with PIL.Image.open(PHOTOS / f"{name}.jpg") as image:
    return image.convert("RGB")


def _variant(name, kind):
  """Returns a photograph as a file of some kind."""
  image = _photograph(name)
  width, height = image.size
  return {
      "as it is": lambda: (PHOTOS / f"{name}.jpg").read_bytes(),
      "4:4:4": lambda: _encoded(image, quality=92, subsampling=0),
      "4:2:2": lambda: _encoded(image, quality=92, subsampling=1),
      "4:2:0": lambda: _encoded(image, quality=80, subsampling=2),
      "progressive": lambda: _encoded(image, quality=90, progressive=True),
      "restart markers": lambda: _encoded(
          image, quality=90, restart_marker_rows=1),
      "grey": lambda: _encoded(image.convert("L"), quality=90),
      "EXIF-rotated": lambda: _encoded(image, quality=90, exif=_exif()),
      "odd": lambda: _encoded(
          image.crop((3, 1, width - 2, height - 4)), quality=90),
      "portrait": lambda: _encoded(
          image.transpose(PIL.Image.Transpose.ROTATE_90), quality=90),
      "wide": lambda: _encoded(
          image.crop((0, 20, width, 20 + height // 3)), quality=90),
      "trailing bytes": lambda: _encoded(image, quality=90) + b"\0" * 7,
      "JPEG in all but name": lambda: _encoded(image, "PNG"),
      "palette GIF": lambda: _encoded(image.quantize(200), "GIF"),
  }[kind]()


KINDS = ("as it is", "4:4:4", "4:2:2", "4:2:0", "progressive",
         "restart markers", "grey", "EXIF-rotated", "odd", "portrait", "wide",
         "trailing bytes", "JPEG in all but name", "palette GIF")


def _by_pil(encoded, resize_px, crop_px, interpolation):
  return _cropped(np.asarray(_resized(
      _open(encoded), resize_px, interpolation)), crop_px).astype(float)


def _figures(got, expected):
  """Returns mean and largest absolute difference and bias, all of 255."""
  assert got.dtype == np.float32 and got.shape == expected.shape
  off = got * 255.0 - expected
  return np.abs(off).mean(), np.abs(off).max(), off.mean()


class TestPhotographs:
  """Real photographs, scaled down: equal to PIL but for one level in places."""

  @staticmethod
  def _check(encoded, resize_px, crop_px, interpolation):
    got = _steps(resize_px, crop_px, interpolation).apply(encoded).numpy()
    mean, largest, bias = _figures(
        got, _by_pil(encoded, resize_px, crop_px, interpolation))
    assert mean <= _PHOTO_TOLERANCE
    assert largest <= _PHOTO_LARGEST + 1e-3
    assert abs(bias) <= _PHOTO_BIAS

  @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
  @pytest.mark.parametrize("kind", KINDS)
  def test_kinds(self, kind, interpolation):
    self._check(_variant("cat", kind), 96, 84, interpolation)

  # The sizes of ImageNet's usual evaluations, as resizing / crop: 0.875, 0.95
  # (timm rounds 224 / 0.95 down to 235) and 1.0.
  @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
  @pytest.mark.parametrize("resize_px, crop_px", [
      (256, 224), (235, 224), (224, 224), (329, 288), (303, 288), (288, 288)])
  def test_sizes(self, resize_px, crop_px, interpolation):
    self._check(_variant("coffee", "as it is"), resize_px, crop_px,
                interpolation)

  # Halves are frequent: at every second pixel when the size is doubled.
  @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
  @pytest.mark.parametrize("resize_px, crop_px", [
      (438, 384), (404, 384), (384, 384), (512, 300)])
  def test_upscaled(self, resize_px, crop_px, interpolation):
    encoded = _variant("cat", "as it is")
    got = _steps(resize_px, crop_px, interpolation).apply(encoded).numpy()
    mean, largest, bias = _figures(
        got, _by_pil(encoded, resize_px, crop_px, interpolation))
    assert mean <= 0.05
    assert largest <= 1 + 1e-3
    assert abs(bias) <= 0.05

  @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
  def test_cmyk(self, interpolation):
    encoded = _encoded(_photograph("coffee").convert("CMYK"), quality=90)
    got = _steps(256, 224, interpolation).apply(encoded).numpy()
    mean, largest, _ = _figures(got, _by_pil(encoded, 256, 224, interpolation))
    assert mean <= _CMYK_TOLERANCE
    assert largest <= 2 + 1e-3

  # What the bounds are worth: each fault alone goes far beyond them.
  @pytest.mark.parametrize("fault, least", [
      ("fast DCT", 0.5), ("no antialias", 0.8), ("crop before resizing", 4),
      ("corner rounded up", 4), ("long side rounded up", 1),
      ("no rounding in between", 0.1)])
  def test_bounds_tell_faults(self, fault, least):
    encoded = _encoded(_photograph("coffee").crop((0, 0, 500, 371)),
                       quality=92)
    image = _open(encoded)
    whole = np.asarray(image)
    # 256 * 500 / 371 = 345.01; the corner is round(60.5) = 60.
    resized = _resized(image, 256, "bicubic")
    assert resized.size == (345, 256)
    wrong = {
        "fast DCT": lambda: _cropped(np.asarray(_resized(PIL.Image.fromarray(
            tf.io.decode_jpeg(encoded, dct_method="INTEGER_FAST").numpy()),
                                                         256, "bicubic")), 224),
        "no antialias": lambda: _cropped(tf.image.resize(
            whole, (256, 345), "bicubic").numpy(), 224),
        "crop before resizing": lambda: np.asarray(PIL.Image.fromarray(
            _cropped(whole, 325)).resize((224, 224), _FILTERS["bicubic"])),
        "corner rounded up": lambda: np.asarray(resized)[16:240, 61:285],
        "long side rounded up": lambda: _cropped(np.asarray(
            image.resize((346, 256), _FILTERS["bicubic"])), 224),
        "no rounding in between": lambda: _cropped(np.round(tf.image.resize(
            whole, (256, 345), "bicubic", antialias=True).numpy()), 224),
    }[fault]()
    got = _steps(256, 224, "bicubic").apply(encoded).numpy()
    assert _figures(got, wrong.astype(float))[0] > least
    self._check(encoded, 256, 224, "bicubic")


class TestWindow:
  """Only a part is decoded; nobody can tell."""

  # Where colour has half the resolution, a window's edge comes out otherwise.
  @pytest.mark.parametrize("kind", [
      "4:4:4", "4:2:2", "4:2:0", "progressive", "restart markers", "grey",
      "odd", "portrait"])
  def test_pixels_of_the_whole_image(self, kind):
    encoded = _variant("cat", kind)
    whole = np.asarray(_open(encoded)).astype(float)
    # Windows that begin at every place within a block of 16 pixels.
    for crop_px in range(200, 232, 2):
      got = preprocessing.Preprocessing((), crop_px).pixels(encoded).numpy()
      np.testing.assert_array_equal(got, _cropped(whole, crop_px))

  def test_edges_of_the_image(self):
    encoded = _encoded(_photograph("cat").crop((0, 0, 101, 75)), quality=90)
    got = _steps(75, 75, "bicubic", "squash").apply(encoded).numpy()
    expected = np.asarray(_open(encoded).resize(
        (75, 75), _FILTERS["bicubic"])).astype(float)
    assert _figures(got, expected)[1] <= 1 + 1e-3

  # Resized as a whole, these have half a gigabyte.
  @pytest.mark.parametrize("width, height", [(1, 2000), (2000, 1), (3, 1900)])
  def test_extreme_aspect_ratio(self, width, height):
    # Fewer pixels cannot be told apart: bands along the long side.
    bands = np.random.default_rng(0).integers(
        0, 256, (max(width, height), 1, 3), np.uint8)
    if width > height:
      bands = bands.transpose(1, 0, 2)
    pixels = np.ascontiguousarray(np.broadcast_to(bands, (height, width, 3)))
    encoded = _encoded(PIL.Image.fromarray(pixels), quality=95, subsampling=0)
    got = _steps(64, 56, "bilinear").apply(encoded).numpy()
    expected = _by_pil(encoded, 64, 56, "bilinear")
    assert _figures(got, expected)[0] <= _TOLERANCE

  @pytest.mark.parametrize("steps", [
      preprocessing.Preprocessing((), 64), _steps(90, 64, "bicubic"),
      _steps(90, 64, "bilinear", antialias=False)])
  @pytest.mark.parametrize("name", ["landscape", "progressive"])
  def test_last_bytes_missing(self, steps, name):
    """Those are of rows below the window, which need not be read."""
    encoded = FILES[name]()
    assert steps.apply(encoded).shape == (64, 64, 3)
    for cut in (2, 200):
      with pytest.raises(tf.errors.InvalidArgumentError):
        steps.apply(encoded[:-cut])


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
