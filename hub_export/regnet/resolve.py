"""From what the user asked for to a checkpoint and all that is known of it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from hub_export import errors
from hub_export import export_dirs
from hub_export import preprocessing
from hub_export.regnet import checkpoints
from hub_export.regnet import demo
from hub_export.regnet import variants
from hub_export.regnet import catalog

DEMO = "demo"
_IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What a checkpoint was trained on and is evaluated on."""
  name: str               # As TFDS has it.
  title: str
  split: str              # That accuracy is measured on.
  tfhub_tag: str | None   # As TensorFlow Hub's documentation has it.
  infix: str              # In module names: "" or "digits_".


IMAGENET = Dataset("imagenet2012", "ImageNet-1k (ILSVRC 2012)", "validation",
                   "imagenet-ilsvrc-2012-cls", "")
DIGITS = Dataset("optical_digits", "UCI optical recognition of handwritten "
                 "digits", demo.SPLIT, None, "digits_")


@dataclasses.dataclass(frozen=True)
class Resolved:
  """A checkpoint, read and checked, and where it comes from."""
  checkpoint: checkpoints.Checkpoint
  source: str                  # "keras", "regnety" or "demo".
  location: str                # Catalog name, or the file's name.
  files: tuple[Mapping[str, Any], ...]  # name, sha256, bytes of each.
  dataset: Dataset
  preprocessing: preprocessing.Preprocessing
  reported: catalog.Accuracy | None
  licence_id: str
  licence: str
  training: str

  is_own: bool = False         # Neither published nor the demo: the user's.

  @property
  def is_demo(self) -> bool:
    return self.source == DEMO


def resolve(request: str | None, variant: variants.Variant,
            cache: pathlib.Path, offline: bool,
            user_path: Callable[[str], pathlib.Path],
            say: Callable[[str], None]) -> Resolved:
  """Returns the checkpoint that the user means.

  Args:
    request: A path, "<source>:<name>" of the catalog, or "demo"; None for the
      catalog's ImageNet weights or else, said aloud, the demo. Nothing that
      was asked for is ever replaced by something else.
    variant: What it has to be.
    cache: Directory of downloads and demo checkpoints.
    offline: Whether to use no network.
    user_path: Makes a path of what the user typed.
    say: Tells the user something.

  Raises:
    UsageError: if the catalog has no such name, or it is another variant.
    UnavailableError: if it can be had neither from the cache nor the network.
    CheckpointError: if it cannot be read or does not fit.
    WriteError: if the cache cannot be written.
  """
  if request == DEMO:
    return _demo(variant, cache, say)
  if request is None:
    entry = catalog.default(variant)
    try:
      path = catalog.fetch(entry, cache, offline)
    except errors.UnavailableError as e:
      say(f"{e}\nFalling back to the demo checkpoint: the same architecture, "
          "trained on small images of digits. It shows the way and is of no "
          "other use.")
      return _demo(variant, cache, say)
    return _published(entry, path, variant)
  if request.startswith(tuple(f"{s}:" for s in catalog.SOURCES)):
    entry = catalog.by_name(request)
    if entry.variant != variant.name:
      raise errors.UsageError(
          f"{request} is a {entry.variant}; expected a {variant.name}. Use "
          f"--variant={entry.variant}, or another checkpoint")
    return _published(entry, catalog.fetch(entry, cache, offline), variant)
  if "://" in request:
    raise errors.UsageError(
        f"{request} is a URL; expected a path, a name of the catalog such as "
        "keras:regnety006, or demo. Download it and give its path")
  return _local(user_path(request), variant)


def _published(entry: catalog.Entry, path: pathlib.Path,
               variant: variants.Variant) -> Resolved:
  """Returns a checkpoint that the catalog knows."""
  checkpoint = checkpoints.open(path, variant)
  return _of_source(checkpoint, entry.name, entry.accuracy)


def _local(path: pathlib.Path, variant: variants.Variant) -> Resolved:
  """Returns a checkpoint of the user's own."""
  checkpoint = checkpoints.open(path, variant)
  if checkpoint.layout.metadata is not None:
    return _as_demo(checkpoint)
  entry = None
  if len(checkpoint.layout.files) == 1:
    entry = catalog.by_hash(
        export_dirs.file_sha256(checkpoint.layout.files[0]))
  if entry is not None:
    return _of_source(checkpoint, entry.name, entry.accuracy)
  # A user's directories are nobody's business: the name is enough. Nor is
  # anything known of how these weights came about, whatever their layout.
  return dataclasses.replace(
      _of_source(checkpoint, checkpoint.layout.files[0].name, None),
      is_own=True, licence_id="custom",
      licence="Not stated by the exporter; ask before use.",
      training="Not stated by the exporter. The file has the layout of the "
      f"source {checkpoint.layout.source!r}, and is fed as that source's are.")


def _of_source(checkpoint: checkpoints.Checkpoint, location: str,
               reported: catalog.Accuracy | None) -> Resolved:
  """Returns a checkpoint with what is true of all of its source."""
  if checkpoint.num_classes not in (0, _IMAGENET_CLASSES):
    raise errors.CheckpointError(
        f"{location} has {checkpoint.num_classes} classes, whose names are not "
        f"known; expected ImageNet's {_IMAGENET_CLASSES}, or no head at all. "
        "Save the model without its head (include_top=False) to export the "
        "feature extractor.")
  source = catalog.SOURCES[checkpoint.layout.source]
  return Resolved(
      checkpoint=checkpoint, source=source.name, location=location,
      files=_file_records(checkpoint), dataset=IMAGENET,
      preprocessing=source.preprocessing, reported=reported,
      licence_id=source.licence_id, licence=source.licence,
      training=source.training)


def _demo(variant: variants.Variant, cache: pathlib.Path,
          say: Callable[[str], None]) -> Resolved:
  """Returns the demo checkpoint, trained now if it is not cached."""
  path = demo.checkpoint(variant, cache)
  say(f"Demo checkpoint: {path}")
  return _as_demo(checkpoints.open(path, variant))


def _as_demo(checkpoint: checkpoints.Checkpoint) -> Resolved:
  """Returns a file of demo.py with what its metadata say of it."""
  metadata = checkpoint.layout.metadata
  try:
    reported = catalog.Accuracy(
        float(metadata["top1"]), float(metadata["top5"]),
        "measured on the network in training, before the export", 0.1,
        "same images, same preprocessing: only rounding may differ")
    known = (metadata["dataset"], metadata["split"], checkpoint.num_classes)
  except (KeyError, TypeError, ValueError) as e:
    raise errors.CheckpointError(
        f"{checkpoint.layout.files[0]} has damaged metadata ({e!r}); expected "
        "a file that this program trained. Use --checkpoint=demo.") from e
  if known != (DIGITS.name, DIGITS.split, 10):
    raise errors.CheckpointError(
        f"{checkpoint.layout.files[0]} was trained on {known}; expected the "
        "demo on digits. Use --checkpoint=demo.")
  return Resolved(
      checkpoint=checkpoint, source=DEMO, location=DEMO,
      files=_file_records(checkpoint), dataset=DIGITS,
      preprocessing=demo.PREPROCESSING, reported=reported,
      licence_id="apache-2.0",
      licence="Apache-2.0; trained on the UCI optical digits, which are under "
      "CC BY 4.0.",
      training="A demo. Trained for about a minute on 1,437 images of "
      "handwritten digits, 8x8 pixels shown at 32x32 (hub_export/regnet/"
      "demo.py).")


def _file_records(
    checkpoint: checkpoints.Checkpoint) -> tuple[dict[str, Any], ...]:
  return tuple({"name": path.name, "sha256": export_dirs.file_sha256(path),
                "bytes": path.stat().st_size}
               for path in checkpoint.layout.files)
