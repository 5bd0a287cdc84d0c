"""Checks that images are prepared as by PIL, which published figures rest on.

The evaluation and `image_bytes` run the same code, so that they agree with each
other whatever it does. Here the manifest's record is followed a second time, in
PIL. A mirrored image would cost an ImageNet model next to nothing, as it was
trained on such, and no accuracy would tell.
"""

import io

import numpy as np
import PIL.Image
import tensorflow as tf

from checks import report
from checks import subject as subject_lib
from hub_export import preprocessing as preprocessing_lib

# Mean difference of pixels that is let pass, in levels of 0 to 255. Where both
# average when they scale down, 0.01 was seen. Where sides are scaled unlike each
# other, 0.26: Pillow 13 then begins with whichever pass is cheaper, those before
# it, which published figures come from, always with the horizontal one. Without
# averaging, 1.4, as rules at the edges and for bicubic differ. One row too far is
# 3 and more, on the images that are used here.
_TOLERANCE, _TOLERANCE_SQUASHED, _TOLERANCE_WITHOUT_ANTIALIAS = 0.2, 0.5, 2.0
_FILTERS = {"bilinear": PIL.Image.Resampling.BILINEAR,
            "bicubic": PIL.Image.Resampling.BICUBIC}


def preprocessing(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the preprocessing against PIL's of the same record."""
  prep = subject.preprocessing
  tolerance = max([_TOLERANCE, *map(_tolerance, prep.resizes)])
  # Larger than any step's outcome: to scale down is the harder part.
  largest = max([prep.crop_px, *(step.size_px for step in prep.resizes)])
  long, short = largest * 13 // 8 + 1, largest * 5 // 4 + 1
  worst, problems = 0.0, []
  for height, width in ((long, short), (short, long)):
    name = f"a JPEG of {height} x {width}"
    encoded = _encoded(subject_lib.probe_images(1, height, width)[0])
    found = prep.apply(tf.constant(encoded)).numpy()
    expected = by_pil(prep, encoded)
    if found.shape != expected.shape:
      problems.append(f"{name} becomes {found.shape}, in PIL {expected.shape}")
      continue
    off = 255 * float(np.abs(found - expected).mean())
    worst = max(worst, off)
    if not off <= tolerance:
      problems.append(
          f"of {name} pixels differ from PIL's by {off:.1f} of 255 on average; "
          f"expected at most {tolerance}")
  return report.from_problems(
      problems, f"pixels are PIL's within {worst:.2f} of 255 on average",
      largest_difference=worst)


def _tolerance(step: preprocessing_lib.Resize) -> float:
  if not step.antialias:
    return _TOLERANCE_WITHOUT_ANTIALIAS
  return _TOLERANCE_SQUASHED if step.mode == "squash" else _TOLERANCE


def by_pil(prep: preprocessing_lib.Preprocessing, encoded: bytes
           ) -> np.ndarray:
  """Returns what a model is fed of an image, prepared by PIL.

  Args:
    prep: The record to follow.
    encoded: A JPEG or PNG file.

  Returns:
    float32 [crop_px, crop_px, 3], RGB in [0, 1].
  """
  image = PIL.Image.open(io.BytesIO(encoded)).convert("RGB")
  for step in prep.resizes:
    width, height = image.size
    short = min(width, height)
    size = ((step.size_px, step.size_px) if step.mode == "squash" else
            (step.size_px * width // short, step.size_px * height // short))
    if step.antialias:
      image = image.resize(size, _FILTERS[step.interpolation])
    else:
      # Looks up single points, as PIL's resize does not when it scales down.
      image = image.transform(
          size, PIL.Image.Transform.AFFINE,
          (width / size[0], 0, 0, 0, height / size[1], 0),
          _FILTERS[step.interpolation])
    if step.jpeg:
      buffer = io.BytesIO()
      image.save(buffer, "JPEG", quality=95)
      image = PIL.Image.open(buffer)
  width, height = image.size
  left, top = (round((side - prep.crop_px) / 2) for side in (width, height))
  image = image.crop((left, top, left + prep.crop_px, top + prep.crop_px))
  return np.asarray(image, np.float32) / 255


def _encoded(pixels: np.ndarray) -> bytes:
  """Returns float [height, width, 3] in [0, 1] as a JPEG file."""
  buffer = io.BytesIO()
  PIL.Image.fromarray((pixels * 255).round().astype(np.uint8)).save(
      buffer, "JPEG", quality=95)
  return buffer.getvalue()
