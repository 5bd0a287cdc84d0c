"""What a user may say of a checkpoint beyond its name.

Of published checkpoints most of it is known, and saying otherwise is refused:
only how images are cut and scaled may be chosen there.

Nothing here imports TensorFlow.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from hub_export import errors

# Formats of checkpoints; their readers are in checkpoints, which imports
# TensorFlow.
FORMATS = ("saved_model", "safetensors", "torch", "keras3", "keras_h5",
           "tf_checkpoint")


@dataclasses.dataclass(frozen=True)
class Wishes:
  """All optional; None leaves it to the checkpoint and its source."""
  offline: bool = False
  accepted_licences: tuple[str, ...] = ()   # Names of restricted ones.
  # How images are fed; for every checkpoint.
  image_size: int | None = None             # Side of the crop, in pixels.
  resize: int | None = None                 # Before the crop, in pixels.
  resize_mode: str | None = None            # preprocessing.Resize.mode
  interpolation: str | None = None
  antialias: bool | None = None
  # The rest is for checkpoints of the user's own.
  format_name: str | None = None            # One of FORMATS.
  convention: str | None = None             # One of variants.CONVENTIONS.
  channel_order: str | None = None          # "RGB" or "BGR".
  mean: tuple[float, ...] | None = None     # R, G, B on the scale of [0, 1].
  std: tuple[float, ...] | None = None
  labels: pathlib.Path | None = None        # A class name per line.
  dataset: str | None = None                # TFDS name.
  split: str | None = None
  licence: str | None = None
  training: str | None = None
  reported_top1: float | None = None        # Percent.
  reported_top5: float | None = None
  reported_source: str | None = None

  def __post_init__(self):
    """Raises UsageError where a value cannot be meant."""
    figures = [f for f in (self.reported_top1, self.reported_top5)
               if f is not None]
    if not all(math.isfinite(figure) for figure in figures):
      raise errors.UsageError("a reported accuracy is a number from 0 to 100")
    if len(figures) == 2 and self.reported_top5 < self.reported_top1:
      raise errors.UsageError(
          f"--reported_top5={self.reported_top5:g} is less than "
          f"--reported_top1={self.reported_top1:g}; expected at least as much")
    if self.reported_top1 is None and (figures or self.reported_source):
      raise errors.UsageError(
          "--reported_top5 and --reported_source need --reported_top1 as well")
    if self.split is not None and self.dataset is None:
      raise errors.UsageError("--split needs --dataset as well")
    if self.image_size is not None and self.resize is not None and (
        self.resize < self.image_size):
      raise errors.UsageError(
          f"--resize={self.resize} leaves less than the {self.image_size} "
          "pixels of --image_size; expected at least as many")

  @property
  def feeding(self) -> dict[str, object]:
    """What is said of cutting and scaling, by field."""
    return self._said("image_size", "resize", "resize_mode", "interpolation",
                      "antialias")

  @property
  def own(self) -> dict[str, object]:
    """What is said of what is known of published checkpoints, by field."""
    return self._said("convention", "channel_order", "mean", "std", "labels",
                      "dataset", "split", "licence", "training",
                      "reported_top1", "reported_top5", "reported_source")

  def check_published(self, name: str) -> None:
    """Raises UsageError if something is said that is known of `name`."""
    if self.own:
      raise errors.UsageError(
          f"--{next(iter(self.own))} is for checkpoints of your own; of {name} "
          "it is known. Leave the flag out")

  def check_demo(self) -> None:
    """Raises UsageError if something is said that the demo cannot heed."""
    self.check_published("the demo")
    if self.feeding:
      raise errors.UsageError(
          f"--{next(iter(self.feeding))} is not for the demo, which knows "
          "images of one size. Leave the flag out")

  def _said(self, *names: str) -> dict[str, object]:
    return {name: getattr(self, name) for name in names
            if getattr(self, name) is not None}


def three_numbers(flag: str, values: Sequence[str] | None
                  ) -> tuple[float, ...] | None:
  """Returns the numbers for R, G and B that a flag gives; None for None.

  Raises:
    UsageError: if they are not three finite numbers up to 1, or a std is not
      over 0.
  """
  if values is None:
    return None
  try:
    numbers = tuple(map(float, values))
  except ValueError:
    numbers = ()
  if (len(numbers) != 3 or not all(map(math.isfinite, numbers))
      or max(numbers) > 1 or (flag == "std" and min(numbers) <= 0)):
    raise errors.UsageError(
        f"--{flag}={','.join(values)} is not what images are normalised by; "
        "expected numbers for R, G and B on the scale of 0 to 1, such as "
        "0.485,0.456,0.406. Divide by 255 what is on the scale of bytes")
  return numbers
