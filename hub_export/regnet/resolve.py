"""From what the user asked for to a checkpoint and all that is known of it."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from hub_export import download
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import labels
from hub_export import preprocessing
from hub_export.regnet import catalog
from hub_export.regnet import checkpoints
from hub_export.regnet import demo
from hub_export.regnet import requested
from hub_export.regnet import variants
from hub_export.regnet import wishes as wishes_lib

DEMO = requested.DEMO
_LONGEST_TEXT = 20_000  # Characters.
_STATED = "as stated by the exporter."
_UNSTATED = "Not stated by the exporter; ask before use."
_TOLERANCE = 0.1  # Points; what identical preprocessing leaves open.
# Multiply-adds of the largest network that a demo is trained of unasked: some
# ten minutes on two cores.
_LARGEST_DEMO = 4.1e9
# How checkpoints of this project are fed if their export is not known.
_USUAL_SOURCE = {"keras": "keras", "regnety": "regnety", "torch": "timm"}


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What a checkpoint was trained on and is evaluated on."""
  name: str               # As TFDS has it; `labels.OWN` if it is not known.
  title: str
  split: str              # That accuracy is measured on; "" if not known.
  tfhub_tag: str | None   # As TensorFlow Hub's documentation has it.
  infix: str              # In module names: "" or "digits_".


IMAGENET = Dataset("imagenet2012", "ImageNet-1k (ILSVRC 2012)", "validation",
                   "imagenet-ilsvrc-2012-cls", "")
DIGITS = Dataset("optical_digits", "UCI optical recognition of handwritten "
                 "digits", demo.SPLIT, None, "digits_")
_PUBLISHED = {
    "imagenet2012": IMAGENET,
    "imagenet12k": Dataset("imagenet12k", "ImageNet-12k, 11821 classes of "
                           "ImageNet-22k", "validation", None, "in12k_"),
    None: Dataset(labels.OWN, "a billion images of Instagram (not public)", "",
                  None, "seer_"),
}


@dataclasses.dataclass(frozen=True)
class Resolved:
  """A checkpoint, read and checked, and where it comes from."""
  checkpoint: checkpoints.Checkpoint
  source: str                  # "keras", "timm", ..., "hub" or "demo".
  location: str                # Catalog name, URL, or the file's name.
  files: tuple[Mapping[str, Any], ...]  # name, sha256, bytes of each.
  dataset: Dataset
  labels: tuple[str, ...]      # Class names in order; () without a head.
  preprocessing: preprocessing.Preprocessing
  reported: catalog.Accuracy | None
  licence_id: str
  licence: str
  training: str
  is_demo: bool = False
  is_own: bool = False         # Neither published nor the demo: the user's.


def resolve(request: str | None, variant: variants.Variant | None,
            cache: pathlib.Path, wishes: wishes_lib.Wishes,
            user_path: Callable[[str], pathlib.Path],
            say: Callable[[str], None]) -> Resolved:
  """Returns the checkpoint that the user means.

  Args:
    request: A path, a URL, "<source>:<name>" of the catalog, or "demo"; None
      for the catalog's ImageNet weights or else, said aloud, the demo. Nothing
      that was asked for is ever replaced by something else.
    variant: What it has to be; None for what it is, where `request` says it.
    cache: Directory of downloads and demo checkpoints.
    wishes: What else the user says.
    user_path: Makes a path of what the user typed.
    say: Tells the user something.

  Raises:
    UsageError: if the catalog has no such name, or it is another variant, or
      a wish cannot be granted.
    UnavailableError: if it can be had neither from the cache nor the network.
    CheckpointError: if it cannot be read or does not fit.
    WriteError: if the cache cannot be written.
  """
  requested.check(requested.Item(variant, request), wishes)
  if request == DEMO:
    return _demo(variant, cache, say)
  if request is None:
    return _default(variant, cache, wishes, say)
  if request.startswith(tuple(f"{s}:" for s in catalog.SOURCES)):
    entry = catalog.by_name(request)
    requested.check_variant(entry, variant and [variant])
    return _published(entry, cache, wishes, say)
  if "://" in request:
    path = download.fetch_url(request, cache, wishes.offline)
    return _local(path, download.shown(request), variant, wishes, say)
  path = user_path(request)
  return _local(path, None, variant, wishes, say)


def _default(variant: variants.Variant, cache: pathlib.Path,
             wishes: wishes_lib.Wishes,
             say: Callable[[str], None]) -> Resolved:
  """Returns the catalog's choice, or the demo where it cannot be had."""
  try:
    return _published(catalog.default(variant), cache, wishes, say)
  except errors.UnavailableError as e:
    arch = variants.architectures(variant, "keras")[0]
    if variants.multiply_adds(arch, 1000, 224) > _LARGEST_DEMO:
      raise errors.UnavailableError(
          f"{e}\nNor is there a demo to fall back to: training one of this "
          "size would take long. --checkpoint=demo does it all the same") from e
    if wishes.feeding:
      raise errors.UnavailableError(
          f"{e}\nThe demo is no replacement: it knows images of one size, and "
          f"--{next(iter(wishes.feeding))} asks for others. Leave the flag out "
          "to make do with it") from e
    say(f"{e}\nFalling back to the demo checkpoint: the same architecture, "
        "trained on small images of digits. It shows the way and is of no "
        "other use.")
    return _demo(variant, cache, say)


def _published(entry: catalog.Entry, cache: pathlib.Path,
               wishes: wishes_lib.Wishes,
               say: Callable[[str], None]) -> Resolved:
  """Returns a checkpoint that the catalog knows, fetched if need be."""
  requested.check_licence(entry, wishes)
  path = catalog.fetch(entry, cache, wishes.offline)
  checkpoint = checkpoints.open(path, variants.by_name(entry.variant),
                                format_name=wishes.format_name)
  return _of_entry(checkpoint, entry, wishes, say)


def _local(path: pathlib.Path, url: str | None,
           variant: variants.Variant | None, wishes: wishes_lib.Wishes,
           say: Callable[[str], None]) -> Resolved:
  """Returns a checkpoint of the user's own, or what it turns out to be."""
  checkpoint = checkpoints.open(
      path, variant, format_name=wishes.format_name,
      convention=wishes.convention, channel_order=wishes.channel_order)
  for note in checkpoint.layout.notes:
    say(f"  {note}")
  if checkpoint.layout.metadata is not None:
    wishes.check_demo()
    return _as_demo(checkpoint)
  if len(checkpoint.layout.files) == 1:
    entry = catalog.by_hash(
        export_dirs.file_sha256(checkpoint.layout.files[0]))
    if entry is not None:
      wishes.check_published(f"the published {entry.name}, which this is,")
      requested.check_licence(entry, wishes)
      return _of_entry(checkpoint, entry, wishes, say)
  return _own(checkpoint, url, path, wishes, say)


def _own(checkpoint: checkpoints.Checkpoint, url: str | None,
         path: pathlib.Path, wishes: wishes_lib.Wishes,
         say: Callable[[str], None]) -> Resolved:
  """Returns a checkpoint of which only its file and the user can tell."""
  known = _as_exported(checkpoint, path, wishes)
  if checkpoint.layout.source == "hub" and not known.handle and (
      not wishes.feeding):
    say("  The file does not tell how images are scaled and cut: taken as by "
        "default for such weights. --image_size, --resize, --resize_mode, "
        "--interpolation and --antialias say otherwise.")
  dataset = _own_dataset(checkpoint, wishes, known)
  licence = known.licence
  if wishes.licence is not None:
    # Whoever stated it may state another; what a publisher stated stays, also
    # for what was made of the weights.
    if licence[1] != _UNSTATED and not licence[1].endswith(_STATED):
      raise errors.UsageError(
          f"--licence={wishes.licence} is not what the export was given on: "
          f"{licence[1]} Leave the flag out")
    licence = (wishes.licence.lower(),
               f"{wishes.licence}, {_STATED}")
  reported = None
  if wishes.reported_top1 is not None:
    reported = catalog.Accuracy(
        wishes.reported_top1, wishes.reported_top5,
        wishes.reported_source or "the exporter", _TOLERANCE,
        "the same weights, data and preprocessing are assumed")
  return Resolved(
      checkpoint=checkpoint, source=checkpoint.layout.source,
      # A user's directories are nobody's business: the name is enough.
      location=url or known.handle or checkpoint.layout.files[0].name,
      files=_file_records(checkpoint), dataset=dataset,
      labels=_own_labels(checkpoint, path, dataset, wishes, say),
      preprocessing=_fed(known.preprocessing, wishes), reported=reported,
      licence_id=licence[0], licence=licence[1],
      training=known.training if wishes.training is None else wishes.training,
      is_demo=known.is_demo, is_own=True)


@dataclasses.dataclass(frozen=True)
class _Known:
  """What an own checkpoint brings along, or what is usual for its like."""
  preprocessing: preprocessing.Preprocessing
  licence: tuple[str, str]    # Id and text.
  training: str
  dataset: Dataset | None     # None if it is not known.
  is_demo: bool
  handle: str | None          # Of the earlier export.


def _as_exported(checkpoint: checkpoints.Checkpoint, path: pathlib.Path,
                 wishes: wishes_lib.Wishes) -> _Known:
  """Returns what the manifest of an earlier export says, or the usual.

  Raises:
    CheckpointError: if the manifest is not one of an export.
  """
  found = checkpoint.layout
  if found.manifest is None:
    source = catalog.SOURCES[
        found.source if found.source in catalog.SOURCES
        else _USUAL_SOURCE[checkpoint.architecture.convention.name]]
    prep = source.preprocessing
    return _Known(
        dataclasses.replace(prep, mean=found.mean or prep.mean,
                            std=found.std or prep.std),
        ("custom", _UNSTATED),
        _unstated(found.source, wishes), None, False, None)
  try:
    record = found.manifest
    same_head = checkpoint.num_classes in (
        0, record["outputs"].get("num_classes"))
    handle = str(export_dirs.parse_handle(record["handle"]))
    return _Known(
        preprocessing.from_dict(record["preprocessing"]),
        (_word(record["licence"]["id"]), _text(record["licence"]["text"])),
        f"Exported again from {handle}, of which this was said: "
        f"{_text(record['card']['training'])}",
        _of_manifest(record) if same_head else None, record["is_demo"] is True,
        handle)
  except (KeyError, TypeError, ValueError, OverflowError, AttributeError,
          errors.HubExportError) as e:
    raise errors.CheckpointError(
        f"{path / export_dirs.MANIFEST} is not the manifest of an export "
        f"({repr(e)[:200]}); expected the one that was written with it. Copy "
        "the export again, or remove the file and say what it said by "
        "flags.") from e


def _unstated(source: str, wishes: wishes_lib.Wishes) -> str:
  """Returns what can be said of a training that nobody stated."""
  if source == "hub":
    what = "The file was saved from a module of this project"
    usual = ("as such modules are by default, since it does not tell how "
             "images were cut and scaled.")
  else:
    what = f"The file has the layout of the source {source!r}"
    usual = "as that source's are."
  if wishes.feeding or wishes.mean or wishes.std:
    usual = "as the exporter says."
  return f"Not stated by the exporter. {what}, and is fed {usual}"


def _own_dataset(checkpoint: checkpoints.Checkpoint,
                 wishes: wishes_lib.Wishes, known: _Known) -> Dataset:
  """Returns what the user, the manifest or the number of classes says."""
  if wishes.dataset is not None:
    for public in (IMAGENET, DIGITS):
      if public.name == wishes.dataset:
        return dataclasses.replace(public, split=wishes.split or public.split)
    slug = re.sub(r"[^a-z0-9]+", "_", wishes.dataset.lower()).strip("_")
    return Dataset(wishes.dataset, wishes.dataset, wishes.split or "test",
                   None, f"{slug}_")
  if known.dataset and wishes.labels is None:
    return known.dataset
  # A backbone alone may have been trained on anything.
  if (checkpoint.num_classes == len(labels.names(IMAGENET.name))
      and wishes.labels is None):
    return IMAGENET
  return Dataset(labels.OWN, "images of the exporter's own", "", None, "own_")


def _of_manifest(manifest: Mapping[str, Any]) -> Dataset:
  """Returns the data set of an export's manifest."""
  record = manifest["dataset"]
  # Its infix stands in the module's name, after the variant.
  name = forms.main_name(export_dirs.parse_handle(manifest["handle"]).name)
  infix = name.removeprefix(variants.compact_name(manifest["variant"]) + "_")
  for end in ("classification", "feature_extractor"):
    infix = infix.removesuffix(end)
  if manifest["form"] == "portable":
    infix = infix.removesuffix("portable_")
  tag = record["tfhub_tag"]
  return Dataset(_word(record["name"]), _word(record["title"]),
                 _word(record["split"]), None if tag is None else _word(tag),
                 infix)


def _word(value: Any) -> str:
  """Returns a text of one line; ValueError if it is none.

  A manifest that another wrote ends in this one's, in cards and on screens.
  """
  if not isinstance(value, str) or not value.isprintable() or (
      len(value) > _LONGEST_TEXT):
    raise ValueError(f"{str(value)[:80]!r} is no text in one line")
  return value


def _text(value: Any) -> str:
  """Returns a text that may have several lines; ValueError if it is none."""
  if isinstance(value, str):
    _word(value.replace("\n", " "))
    return value
  return _word(value)


def _own_labels(checkpoint: checkpoints.Checkpoint, path: pathlib.Path,
                dataset: Dataset, wishes: wishes_lib.Wishes,
                say: Callable[[str], None]) -> tuple[str, ...]:
  """Returns the class names of an own checkpoint.

  Raises:
    UsageError: if the user's list does not fit.
  """
  count = checkpoint.num_classes
  if wishes.labels is not None:
    if not count:
      raise errors.UsageError(
          f"{path} has no head, so that there are no classes for --labels to "
          "name. Leave the flag out")
    return labels.from_file(wishes.labels, count)
  if not count:
    return ()
  if checkpoint.layout.manifest:
    try:
      names = labels.from_file(path / export_dirs.LABELS)
    except errors.UsageError as e:  # Not the user's list.
      raise errors.CheckpointError(f"{e}; or copy the export again.") from e
    if len(names) == count:
      return names
  if labels.known(dataset.name) and len(labels.names(dataset.name)) == count:
    return labels.names(dataset.name)
  say(f"  Nothing says what the {count} classes are called: they become "
      f"\"class 0\" to \"class {count - 1}\". --labels=FILE names them, one a "
      "line.")
  return tuple(f"class {i}" for i in range(count))


def _of_entry(checkpoint: checkpoints.Checkpoint, entry: catalog.Entry,
              wishes: wishes_lib.Wishes,
              say: Callable[[str], None]) -> Resolved:
  """Returns a published checkpoint with what the catalog says of it."""
  found = next((e for e in entry.evaluations
                if e.image_size == wishes.image_size), entry.evaluations[0])
  prep = _fed(found.preprocessing, wishes)
  reported = next((e.accuracy for e in entry.evaluations
                   if e.preprocessing == prep), None)
  if entry.accuracy and not reported:
    say(f"  No accuracy of {entry.name} was published with this "
        "preprocessing: the card will say so.")
  dataset = _PUBLISHED[entry.dataset]
  return Resolved(
      checkpoint=checkpoint, source=entry.source, location=entry.name,
      files=_file_records(checkpoint), dataset=dataset,
      labels=labels.names(dataset.name) if checkpoint.num_classes else (),
      preprocessing=prep, reported=reported, licence_id=entry.licence_id,
      licence=entry.licence, training=entry.training)


def _fed(usual: preprocessing.Preprocessing,
         wishes: wishes_lib.Wishes) -> preprocessing.Preprocessing:
  """Returns how images are fed by the user's wishes, otherwise as usual.

  Raises:
    UsageError: if the crop would be larger than what it is cut from.
  """
  crop = wishes.image_size or usual.crop_px
  steps = usual.resizes
  if steps:
    last = steps[-1]
    size = wishes.resize
    if size is None:  # The same share of the image as before.
      size = (last.size_px if crop == usual.crop_px
              else round(crop * last.size_px / usual.crop_px))
    changes = {"mode": wishes.resize_mode, "antialias": wishes.antialias,
               "interpolation": wishes.interpolation}
    last = dataclasses.replace(last, size_px=size, **{
        k: v for k, v in changes.items() if v is not None})
    steps = (*steps[:-1], last)
  try:
    return preprocessing.Preprocessing(
        steps, crop, wishes.mean or usual.mean, wishes.std or usual.std)
  except ValueError as e:
    raise errors.UsageError(f"images cannot be fed so: {e}") from e


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
      labels=labels.names(DIGITS.name), preprocessing=demo.PREPROCESSING,
      reported=reported, licence_id="apache-2.0",
      licence="Apache-2.0; trained on the UCI optical digits, which are under "
      "CC BY 4.0.",
      training="A demo. Trained for about a minute on 1,437 images of "
      "handwritten digits, 8x8 pixels shown at 32x32 (hub_export/regnet/"
      "demo.py).", is_demo=True)


def _file_records(
    checkpoint: checkpoints.Checkpoint) -> tuple[dict[str, Any], ...]:
  return tuple({"name": path.name, "sha256": export_dirs.file_sha256(path),
                "bytes": path.stat().st_size}
               for path in checkpoint.layout.files)
