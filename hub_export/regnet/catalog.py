"""All published RegNet weights by name, and fetching them.

An entry says where a checkpoint is published, what it is and how it was
trained, fed and measured. Entries can be told from their files as well: a
local copy of a published file is known by its hash.

catalog.csv beside this module has a row for each checkpoint and image size
that it was evaluated at, the native size first. Accuracies are percent of
ImageNet-1k's validation split; `_real` is with the ReaL labels, `_v2` on
ImageNetV2 (matched frequency). `architecture` is set where the network is not
the paper's. What all checkpoints of one source have in common stands in
`SOURCES`.

Nothing here imports TensorFlow before a preprocessing is asked for.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import fnmatch
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from hub_export import errors

if TYPE_CHECKING:
  from hub_export import preprocessing
  from hub_export.regnet import variants

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """One file of a published checkpoint."""
  url: str
  sha256: str | None  # None where the publisher gives no full hash.
  sha256_prefix: str | None = None  # Its first digits, where those are given.

  @property
  def name(self) -> str:
    return self.url.rsplit("/", 1)[-1]

  @property
  def pin(self) -> str | None:
    """What is published of the hash: all digits, the first ones or None."""
    return self.sha256 or self.sha256_prefix


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """What somebody reported, in percent of ImageNet's validation split."""
  top1: float
  top5: float | None
  source: str             # Where the figures were published.
  tolerance: float        # Points by which a re-evaluation may differ.
  tolerance_reason: str


@dataclasses.dataclass(frozen=True)
class Step:
  """One resizing step; the fields are those of preprocessing.Resize."""
  mode: str
  size_px: int
  interpolation: str
  antialias: bool
  jpeg: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """One way in which a checkpoint is fed, and how well it did so."""
  image_size: int               # Side of the centre crop, in pixels.
  steps: tuple[Step, ...]       # Before the crop.
  mean: tuple[float, ...]       # RGB, on the scale of [0, 1].
  std: tuple[float, ...]        # RGB, on the scale of [0, 1].
  accuracy: Accuracy | None     # None if nobody published any.
  real: tuple[float, float] | None = None  # Top-1 and top-5, ReaL labels.
  v2: tuple[float, float] | None = None    # Top-1 and top-5 on ImageNetV2.

  @property
  def preprocessing(self) -> preprocessing.Preprocessing:
    """What the evaluation did to images; imports TensorFlow."""
    from hub_export import preprocessing  # pylint: disable=g-import-not-at-top
    return preprocessing.Preprocessing(
        tuple(preprocessing.Resize(**dataclasses.asdict(s))
              for s in self.steps),
        self.image_size, self.mean, self.std)


@dataclasses.dataclass(frozen=True)
class Source:
  """What all checkpoints of one source have in common."""
  name: str
  title: str
  urls: tuple[str, ...]   # {name} and {file} are those of a row.
  usual: Evaluation       # How a checkpoint of unknown origin is fed.
  licences: Mapping[str, str]  # What to say of each licence in use.
  training: str
  figures_from: str
  tolerance: float
  tolerance_reason: str
  note: str = ""          # To be known of all of its figures.

  @property
  def preprocessing(self) -> preprocessing.Preprocessing:
    """How a checkpoint of unknown origin is fed; imports TensorFlow."""
    return self.usual.preprocessing

  @property
  def licence_id(self) -> str:
    """The licence of the source itself, the first in use."""
    return licence_id(next(iter(self.licences)))

  @property
  def licence(self) -> str:
    return next(iter(self.licences.values()))


@dataclasses.dataclass(frozen=True)
class Entry:
  """One published checkpoint."""
  name: str               # "keras:regnety006".
  variant: str            # "regnety_600mf".
  source: str
  architecture: str       # "torchvision" where the network has the widths of
                          # torchvision's rounding, "regnety" for its own.
  files: tuple[RemoteFile, ...]
  num_classes: int        # 0 for a backbone without head.
  dataset: str | None     # That it was trained on; None if it is not public.
  evaluations: tuple[Evaluation, ...]  # At the native size first.
  licence_name: str       # "mit", "seer"; what a user accepts it by.
  licence: str
  training: str
  notes: str
  original: str | None = None  # URL of weights that this file was made from.

  @property
  def licence_id(self) -> str:
    """The licence in TensorFlow Hub's list, "custom" if it is not in it."""
    return licence_id(self.licence_name)

  @property
  def needs_acceptance(self) -> bool:
    """Whether the licence forbids uses, so that it must be accepted first."""
    return self.licence_name in RESTRICTED

  @property
  def accuracy(self) -> Accuracy | None:
    """What was reported at the native size."""
    return self.evaluations[0].accuracy

  @property
  def preprocessing(self) -> preprocessing.Preprocessing:
    """How it is fed at its native size; imports TensorFlow."""
    return self.evaluations[0].preprocessing


# What these licences forbid; all others in the catalog are permissive.
RESTRICTED = {
    "cc-by-nc-4.0": "no commercial use",
    "seer": "terms of its own, in the repository of vissl",
}

_KEPT_PREPROCESSING = "same preprocessing: only rounding may differ"

SOURCES = {s.name: s for s in (
    Source(
        "keras", "tf.keras.applications",
        ("https://storage.googleapis.com/tensorflow/keras-applications/regnet/"
         "{name}.h5",),
        Evaluation(224, (Step("shorter", 256, "bilinear", False),),
                   (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), None),
        {"apache-2.0":
             "Apache-2.0 for the code of tf.keras.applications; the weights "
             "are published with it, without a licence of their own."},
        training="Trained on ImageNet-1k by the contributor of "
        "tf.keras.applications.regnet. Pixels are divided by 255 and not "
        "normalised further.",
        figures_from="blog (top-1) and training log (top-5) of the trainer of "
        "tf.keras.applications.regnet",
        tolerance=0.3,
        tolerance_reason="the figure averages 10 runs of 50 batches of 1024 "
        "over a repeating set, so that some images count twice",
        note="resized pixels are rounded to whole numbers"),
    Source(
        "pycls", "pycls, the code of the RegNet paper",
        ("https://dl.fbaipublicfiles.com/pycls/dds_baselines/{file}/"
         "{name}_dds_8gpu.pyth",),
        Evaluation(224, (Step("shorter", 256, "bilinear", False),),
                   _IMAGENET_MEAN, _IMAGENET_STD, None),
        {"mit": "MIT, the licence of the pycls repository."},
        training="Trained on ImageNet-1k by the authors of the RegNet paper: "
        "100 epochs of their plain recipe.",
        figures_from="pycls, dev/model_error.json",
        tolerance=0.2,
        tolerance_reason="OpenCV resizes in fixed point, and pycls rounds the "
        "corner of its crop up, so that pixels differ a little",
        note="the file's stem takes BGR; the paper prints the figures with "
        "one decimal"),
    Source(
        "torchvision", "torchvision",
        ("https://download.pytorch.org/models/{file}",),
        Evaluation(224, (Step("shorter", 256, "bilinear", True),),
                   _IMAGENET_MEAN, _IMAGENET_STD, None),
        {"bsd-3-clause":
             "BSD-3-Clause, the licence of the torchvision repository; the "
             "weights' own metadata names none.",
         "cc-by-nc-4.0":
             "CC-BY-NC-4.0, the licence of SWAG, which the weights' metadata "
             "link: no commercial use."},
        training="Trained on ImageNet-1k with torchvision's reference "
        "programs.",
        figures_from="metadata of torchvision 0.28's weights",
        tolerance=0.1, tolerance_reason=_KEPT_PREPROCESSING),
    Source(
        "timm", "timm (pytorch-image-models)",
        ("https://huggingface.co/timm/{name}/resolve/main/model.safetensors",),
        Evaluation(224, (Step("shorter", 256, "bicubic", True),),
                   _IMAGENET_MEAN, _IMAGENET_STD, None),
        {"apache-2.0": "Apache-2.0, as timm states for these weights.",
         "mit": "MIT, the licence of pycls, as timm states.",
         "bsd-3-clause": "BSD-3-Clause, the licence of torchvision, as timm "
                         "states.",
         "cc-by-nc-4.0": "CC-BY-NC-4.0, the licence of SWAG, as timm states: "
                         "no commercial use.",
         "seer": "SEER licence: terms of its own, in the repository of vissl. "
                 "Read them before any use."},
        training="Published by timm.",
        figures_from="timm, results/results-imagenet*.csv",
        tolerance=0.1, tolerance_reason=_KEPT_PREPROCESSING),
    Source(
        "regnety", "the regnety project (Google Summer of Code 2021)",
        tuple("https://github.com/AdityaKane2001/AdityaKane2001/releases/"
              "download/v0.1/{name}_best." + suffix
              for suffix in ("index", "data-00000-of-00001")),
        Evaluation(224, (Step("squash", 512, "bilinear", False, jpeg=True),
                         Step("squash", 320, "bilinear", False)),
                   _IMAGENET_MEAN, _IMAGENET_STD, None),
        {"apache-2.0": "Apache-2.0, the licence of the regnety repository."},
        training="Trained on ImageNet-1k in the regnety project (Google Summer "
        "of Code 2021). Images were squashed to squares, so that the aspect "
        "ratio is lost, and normalised by ImageNet's mean and standard "
        "deviation.",
        figures_from="README and final report of the regnety project",
        tolerance=0.5,
        tolerance_reason="the steps of the evaluation are the defaults of the "
        "project's program, not stated with the figure"),
)}

# By what a timm name has after the dot, and a torchvision name after the slash.
_TRAINING = {
    "pycls_in1k": "Trained on ImageNet-1k by the authors of the RegNet paper; "
                  "timm's copy of pycls' weights, its stem turned to RGB.",
    "tv2_in1k": "Trained on ImageNet-1k by torchvision with its newer recipe; "
                "timm's copy of torchvision's weights.",
    "ra_in1k": "Trained on ImageNet-1k by timm with RandAugment.",
    "ra3_in1k": "Trained on ImageNet-1k by timm with RandAugment, a later "
                "recipe.",
    "deit_in1k": "Trained on ImageNet-1k by the authors of DeiT, as the "
                 "teacher of their distillation.",
    "sw_in12k": "Trained by timm on ImageNet-12k, 11821 classes of "
                "ImageNet-22k.",
    "sw_in12k_ft_in1k": "Trained by timm on ImageNet-12k, 11821 classes of "
                        "ImageNet-22k, then fine-tuned on ImageNet-1k.",
    "lion_in12k_ft_in1k": "Trained by timm on ImageNet-12k, 11821 classes of "
                          "ImageNet-22k, then fine-tuned on ImageNet-1k with "
                          "the Lion optimizer.",
    "swag_ft_in1k": "Trained on the hashtags of billions of Instagram images "
                    "(SWAG), then fine-tuned end to end on ImageNet-1k; timm's "
                    "copy.",
    "swag_lc_in1k": "Trained on the hashtags of billions of Instagram images "
                    "(SWAG); a linear classifier on ImageNet-1k over frozen "
                    "features; timm's copy.",
    "seer": "Trained without labels on a billion uncurated Instagram images "
            "(SEER); a backbone without head.",
    "seer_ft_in1k": "Trained without labels on a billion uncurated Instagram "
                    "images (SEER), then fine-tuned on ImageNet-1k.",
    "IMAGENET1K_V1": "Trained on ImageNet-1k by torchvision with its first, "
                     "plain recipe",
    "IMAGENET1K_V2": "Trained on ImageNet-1k by torchvision with its newer "
                     "recipe of long training and strong augmentation",
    "IMAGENET1K_SWAG_E2E_V1": "Trained on the hashtags of billions of "
                              "Instagram images (SWAG), then fine-tuned end to "
                              "end on ImageNet-1k",
    "IMAGENET1K_SWAG_LINEAR_V1": "Trained on the hashtags of billions of "
                                 "Instagram images (SWAG); a linear classifier "
                                 "on ImageNet-1k over frozen features",
}

_DATASETS = {1000: "imagenet2012", 11821: "imagenet12k"}


def licence_id(licence_name: str) -> str:
  """Returns a licence as TensorFlow Hub's list has it."""
  return "custom" if licence_name == "seer" else licence_name


def default(variant: variants.Variant) -> Entry:
  """Returns the entry that stands for a variant: its full hash is published.

  Raises:
    UnavailableError: if there is none that is free to use.
  """
  entries = for_variant(variant)
  for entry in entries:
    if entry.source == "keras" and entry.num_classes:
      return entry
  raise errors.UnavailableError(
      f"{variant.name} has no checkpoint that is taken without being asked "
      f"for; there are {_listed(e.name for e in entries)}. Choose one with "
      "--checkpoint, and read its licence first.")


def for_variant(variant: variants.Variant) -> tuple[Entry, ...]:
  """Returns the entries of a variant, of whatever architecture."""
  return tuple(e for e in ENTRIES if e.variant == variant.name)


def best(variant: variants.Variant,
         accepted: Collection[str] = ()) -> Entry | None:
  """Returns the entry with the highest reported top-1 on ImageNet-1k.

  An entry counts with the best of its image sizes; of equal ones, the smaller
  image wins. Only ImageNet-1k's 1000 classes count.

  Args:
    variant: The variant.
    accepted: Restricted licences that may be used: "cc-by-nc-4.0", "seer".

  Returns:
    None if no entry may be used.
  """
  ranked = [(-figure.accuracy.top1, figure.image_size, i, entry)
            for i, entry in enumerate(for_variant(variant))
            if entry.num_classes == 1000
            and (not entry.needs_acceptance or entry.licence_name in accepted)
            for figure in entry.evaluations if figure.accuracy]
  return min(ranked)[-1] if ranked else None


def matching(pattern: str) -> tuple[Entry, ...]:
  """Returns the entries whose name fits a glob, such as "timm:*pycls*".

  Upper and lower case are the same.
  """
  return tuple(e for e in ENTRIES
               if fnmatch.fnmatchcase(e.name.lower(), pattern.lower()))


def by_name(name: str) -> Entry:
  """Returns the entry called `name`, "<source>:<name>".

  Raises:
    UsageError: if there is none; names the nearest ones.
  """
  for entry in ENTRIES:
    if entry.name == name:
      return entry
  names = {e.name.lower(): e.name for e in ENTRIES}
  near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
  raise errors.UsageError(
      f"the catalog has no checkpoint {name!r}; expected "
      + (f"a name such as {', '.join(names[n] for n in near)}" if near else
         "<source>:<name>, such as keras:regnety006 or "
         "timm:regnety_006.pycls_in1k")
      + ", a path, or demo. The program //hub_export:catalog lists all")


def by_hash(sha256: str) -> Entry | None:
  """Returns the entry whose only file has this SHA-256.

  Where only the hash's first eight digits are published, those decide.
  """
  for entry in ENTRIES:
    pins = [f.pin for f in entry.files]
    if len(pins) == 1 and pins[0] and sha256.startswith(pins[0]):
      return entry
  return None


def paths(entry: Entry, cache: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Returns where in the cache the files of an entry belong."""
  directory = cache / re.sub("[:/]", "_", entry.name)
  return tuple(directory / remote.name for remote in entry.files)


def is_cached(entry: Entry, cache: pathlib.Path) -> bool:
  """Returns whether all files are in the cache; their hashes are not read."""
  return all(os.path.isfile(p) for p in paths(entry, cache))


def fetch(entry: Entry, cache: pathlib.Path, offline: bool) -> pathlib.Path:
  """Returns where the checkpoint's first file lies, the others beside it.

  Args:
    entry: What to fetch.
    cache: Directory for downloads; a file in it with the right hash is used.
    offline: Whether to use no network at all.

  Raises:
    UnavailableError: if a file is not in the cache and cannot be downloaded,
      or what arrives is not what was published, or recorded at first use.
    WriteError: if the cache cannot be written.
  """
  # Its import of an HTTP library takes longer than all the rest of this module.
  from hub_export import download  # pylint: disable=g-import-not-at-top
  places = paths(entry, cache)
  for remote, path in zip(entry.files, places, strict=True):
    download.fetch(remote.url, path.parent, offline=offline, sha256=remote.pin,
                   what=entry.name)
  return places[0]


def _listed(names: Iterable[str]) -> str:
  return ", ".join(names) or "none"


def _read(path: pathlib.Path) -> tuple[Entry, ...]:
  """Returns the entries of the table; rows of one name become one entry."""
  entries = {}
  with open(path, encoding="utf-8", newline="") as f:
    for row in csv.DictReader(f):
      entry = _entry(row)
      if entry.name in entries:
        first = entries[entry.name]
        entry = dataclasses.replace(
            first, evaluations=first.evaluations + entry.evaluations)
      entries[entry.name] = entry
  return tuple(entries.values())


def _entry(row: Mapping[str, str]) -> Entry:
  """Returns the entry of one row, with its one evaluation."""
  source_name, name = row["name"].split(":")
  source = SOURCES[source_name]
  num_classes = int(row["num_classes"])
  tag = re.split("[./]", name)[-1]
  training = _TRAINING.get(tag, source.training)
  if row["recipe"]:
    training += f" ({row['recipe']})."
  is_private = tag == "seer"
  notes = [n for n in (row["notes"], source.note if row["top1"] else "") if n]
  return Entry(
      name=row["name"], variant=row["variant"], source=source_name,
      architecture=row["architecture"] or (
          "regnety" if source_name == "regnety" else ""),
      files=tuple(_remote(url.format(name=name, file=row["file"]),
                          row["sha256"]) for url in source.urls),
      num_classes=num_classes,
      dataset=None if is_private else _DATASETS.get(num_classes,
                                                    "imagenet2012"),
      evaluations=(_evaluation(row, source),),
      licence_name=row["licence"], licence=source.licences[row["licence"]],
      training=training, notes="; ".join(notes),
      original=row["original"] or None)


def _remote(url: str, sha256: str) -> RemoteFile:
  """Returns a file; torch's naming rule puts digits of the hash in its name."""
  match = re.search(r"-([0-9a-f]{8})\.pth$", url)
  return RemoteFile(url, sha256 or None, match[1] if match else None)


def _evaluation(row: Mapping[str, str], source: Source) -> Evaluation:
  """Returns how the row's checkpoint is fed and what it scored so."""
  usual = source.usual
  steps = usual.steps
  if row["resize"]:
    steps = (dataclasses.replace(
        steps[0], size_px=int(row["resize"]),
        interpolation=row["interpolation"]),)
  accuracy = None
  if row["top1"]:
    accuracy = Accuracy(
        float(row["top1"]), float(row["top5"]) if row["top5"] else None,
        source.figures_from, source.tolerance, source.tolerance_reason)
  return dataclasses.replace(
      usual, image_size=int(row["image_size"]), steps=steps, accuracy=accuracy,
      real=_pair(row, "real"), v2=_pair(row, "v2"))


def _pair(row: Mapping[str, str], kind: str) -> tuple[float, float] | None:
  """Returns (top-1, top-5) of another test, None if it was not run."""
  if not row[f"top1_{kind}"]:
    return None
  return float(row[f"top1_{kind}"]), float(row[f"top5_{kind}"])


ENTRIES = _read(pathlib.Path(__file__).with_name("catalog.csv"))
