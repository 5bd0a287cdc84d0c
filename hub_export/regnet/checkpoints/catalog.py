"""Published weights by name, and fetching them.

A row says where a checkpoint is published, what it is and how it was trained,
fed and measured. Rows can be told from their files as well: a local copy of a
published file is known by its hash.
"""

import dataclasses
import pathlib

import pooch
import requests

from hub_export import errors
from hub_export import export_dirs
from hub_export import preprocessing
from hub_export.regnet import variants

pooch.get_logger().setLevel("WARNING")  # The progress bar says enough.

_TIMEOUT_S = 20  # To connect, and between two pieces of a download.


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """One file of a published checkpoint."""
  url: str
  sha256: str | None  # None where the publisher gives no hash.

  @property
  def name(self) -> str:
    return self.url.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """What somebody reported, in percent of ImageNet's validation split."""
  top1: float
  top5: float | None
  source: str             # Where the figures were published.
  tolerance: float        # Points by which a re-evaluation may differ.
  tolerance_reason: str


@dataclasses.dataclass(frozen=True)
class Source:
  """What all checkpoints of one source have in common."""
  name: str
  preprocessing: preprocessing.Preprocessing
  licence_id: str         # From TensorFlow Hub's list of licences.
  licence: str
  training: str


@dataclasses.dataclass(frozen=True)
class Entry:
  """One published checkpoint."""
  name: str               # "keras:regnety006".
  variant: str
  source: str
  files: tuple[RemoteFile, ...]
  accuracy: Accuracy


def _keras(name: str, variant: str, sha256: str, top1: float,
           top5: float) -> Entry:
  url = ("https://storage.googleapis.com/tensorflow/keras-applications/regnet/"
         f"{name}.h5")
  return Entry(f"keras:{name}", variant, "keras", (RemoteFile(url, sha256),),
               Accuracy(
                   top1, top5, "blog (top-1) and training log (top-5) of the "
                   "trainer of tf.keras.applications.regnet", 0.3,
                   "the figure averages 10 runs of 50 batches of 1024 over a "
                   "repeating set, so that some images count twice"))


def _regnety(size: str, top1: float) -> Entry:
  base = ("https://github.com/AdityaKane2001/AdityaKane2001/releases/download/"
          f"v0.1/{size}_best")
  return Entry(f"regnety:{size}", f"regnety_{size}", "regnety",
               (RemoteFile(f"{base}.index", None),
                RemoteFile(f"{base}.data-00000-of-00001", None)),
               Accuracy(
                   top1, None, "README and final report of the regnety project",
                   0.5, "the steps of the evaluation are the defaults of the "
                   "project's program, not stated with the figure"))


SOURCES = {
    "keras": Source(
        "keras",
        preprocessing.Preprocessing(
            (preprocessing.Resize("shorter", 256, "bilinear", False),), 224),
        licence_id="apache-2.0",
        licence="Apache-2.0 for the code of tf.keras.applications; the weights "
        "are published with it, without a licence of their own.",
        training="Trained on ImageNet-1k by the contributor of "
        "tf.keras.applications.regnet. Pixels are divided by 255 and not "
        "normalised further."),
    "regnety": Source(
        "regnety",
        preprocessing.Preprocessing(
            (preprocessing.Resize("squash", 512, "bilinear", False, jpeg=True),
             preprocessing.Resize("squash", 320, "bilinear", False)), 224,
            preprocessing.IMAGENET_MEAN, preprocessing.IMAGENET_STD),
        licence_id="apache-2.0",
        licence="Apache-2.0, the licence of the regnety repository.",
        training="Trained on ImageNet-1k in the regnety project (Google Summer "
        "of Code 2021). Images were squashed to squares, so that the aspect "
        "ratio is lost, and normalised by ImageNet's mean and standard "
        "deviation."),
}

ENTRIES = (
    _keras("regnety002", "regnety_200mf",
           "1e8091c674532b1a61c04f6393a9c570113e0197f22bd1b98cc4c4fe800c6465",
           68.51, 88.31),
    _keras("regnety004", "regnety_400mf",
           "752fdbad21c78911bf1dcb8c513e5a0e14697b068e5d9e73525dbaa416d18d8e",
           72.11, 90.43),
    _keras("regnety006", "regnety_600mf",
           "98942e07b273da500ff9699a1f88aca78dfad4375faabb0bab784bb0dace80a9",
           73.52, 91.52),
    _keras("regnety008", "regnety_800mf",
           "1b099377cc9a4fb183159a6f9b24bc998e5659d25a449f40c90cbffcbcfdcae4",
           74.48, 92.02),
    _regnety("200mf", 67.54),
    _regnety("400mf", 70.19),
    _regnety("600mf", 73.18),
    _regnety("800mf", 73.94),
)


def default(variant: variants.Variant) -> Entry:
  """Returns the entry that stands for a variant: it has a published hash."""
  return next(e for e in ENTRIES
              if e.variant == variant.name and e.source == "keras")


def by_name(name: str) -> Entry:
  """Returns the entry called `name`, "<source>:<name>".

  Raises:
    UsageError: if there is none.
  """
  for entry in ENTRIES:
    if entry.name == name:
      return entry
  raise errors.UsageError(
      f"the catalog has no checkpoint {name!r}; expected one of "
      f"{', '.join(e.name for e in ENTRIES)}, a path, or demo")


def by_hash(sha256: str) -> Entry | None:
  """Returns the entry whose only file has this SHA-256."""
  for entry in ENTRIES:
    if [f.sha256 for f in entry.files] == [sha256]:
      return entry
  return None


def fetch(entry: Entry, cache: pathlib.Path, offline: bool) -> pathlib.Path:
  """Returns where the checkpoint's files lie, downloading what is missing.

  Args:
    entry: What to fetch.
    cache: Directory for downloads; a file in it with the right hash is used.
    offline: Whether to use no network at all.

  Raises:
    UnavailableError: if a file is not in the cache and cannot be downloaded,
      or what arrives is not what was published.
    WriteError: if the cache cannot be written.
  """
  directory = cache / entry.name.replace(":", "_")
  paths = [_fetch_file(entry, remote, directory, offline)
           for remote in entry.files]
  return paths[0]


def _fetch_file(entry: Entry, remote: RemoteFile, directory: pathlib.Path,
                offline: bool) -> pathlib.Path:
  """Returns one file's path in the cache."""
  path = directory / remote.name
  known = remote.sha256 and f"sha256:{remote.sha256}"
  if offline:
    if not path.is_file():
      raise errors.UnavailableError(
          f"{entry.name} is not in the cache ({path}) and --offline forbids a "
          f"download. Run once without it, or put {remote.url} there.")
    if remote.sha256 and export_dirs.file_sha256(path) != remote.sha256:
      raise errors.UnavailableError(
          f"{path} is damaged: its SHA-256 is not {remote.sha256}, and "
          "--offline forbids to download it again. Run once without it.")
    return path
  download = pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT_S)
  try:
    # Downloads to a temporary file, checks the hash, then renames.
    pooch.retrieve(remote.url, known, remote.name, directory,
                   downloader=download)
  except requests.RequestException as e:
    raise errors.UnavailableError(
        f"{entry.name} could not be downloaded from {remote.url} "
        f"({type(e).__name__}). Check the network or the proxy, or put the "
        f"file at {path}.") from e
  except ValueError as e:
    raise errors.UnavailableError(
        f"{remote.url} is not the file that was published: its SHA-256 is not "
        f"{remote.sha256}. Try again; if it stays so, do not use it.") from e
  except OSError as e:
    raise errors.WriteError(
        f"cannot write {path}: {e.strerror or e}. Set REGNETY_HUB_CACHE to a "
        "directory that can be written to.") from e
  return path
