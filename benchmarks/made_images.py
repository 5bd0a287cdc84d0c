"""Made-up JPEG files that cost as much to decode as photographs of ImageNet."""

import io

import numpy as np
import PIL.Image

# ImageNet's validation split: most often 500 x 375 pixels, some 110 KB.
_LONG_PX, _SHORT_PX = 500, 375
_QUALITY = 90
_PORTRAITS = 4  # One of so many is upright.


def jpegs(count: int, seed: int = 0) -> list[bytes]:
  """Returns JPEG files, landscapes and portraits, unlike each other.

  Args:
    count: How many.
    seed: Of the first one; the n-th of one seed is the first of seed + n - 1.
  """
  files = []
  for number in range(seed, seed + count):
    sides = (_LONG_PX, _SHORT_PX)
    width, height = sides[::-1] if number % _PORTRAITS == 0 else sides
    buffer = io.BytesIO()
    PIL.Image.fromarray(_pixels(width, height, number)).save(
        buffer, "JPEG", quality=_QUALITY)
    files.append(buffer.getvalue())
  return files


def _pixels(width: int, height: int, seed: int) -> np.ndarray:
  """Returns uint8 [height, width, 3] whose spectrum is that of photographs.

  Amplitudes fall with the frequency's inverse (Field, 1987, "Relations between
  the statistics of natural images and the response properties of cortical
  cells"), colours faster than brightness.
  """
  random = np.random.default_rng(seed)
  frequencies = np.hypot(np.fft.fftfreq(height)[:, np.newaxis],
                         np.fft.rfftfreq(width))
  frequencies[0, 0] = np.inf  # No mean: it is given below.

  def plane(power: float) -> np.ndarray:
    noise = np.fft.rfft2(random.normal(size=(height, width)))
    values = np.fft.irfft2(noise / frequencies**power, (height, width))
    return values / values.std()

  brightness, warm, green = plane(1.0), plane(1.4), plane(1.4)
  pixels = np.stack([120 + 45 * brightness + 18 * warm,
                     115 + 45 * brightness - 10 * warm + 8 * green,
                     105 + 45 * brightness - 20 * green], axis=-1)
  return np.clip(pixels, 0, 255).astype(np.uint8)
