"""Prepares data sets through TFDS, whole or not at all."""

import contextlib
import hashlib
import pathlib
import shutil
import urllib.error
from collections.abc import Iterator

import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from checks import evaluation_sets
from checks import known_sets
from hub_export import digits
from hub_export import errors
from hub_export import export_dirs

_CHUNK_BYTES = 1 << 20


def manual_dir_of(name: str, data_dir: pathlib.Path | None) -> pathlib.Path:
  """Returns where TFDS looks for the archives that a person got.

  Args:
    name: TFDS' name of a data set.
    data_dir: TFDS' directory of data sets; None for TFDS' own default.
  """
  builder = evaluation_sets.tfds_builder(name, data_dir)
  return pathlib.Path(builder.data_dir_root) / "downloads" / "manual"


def archive_state(archive: known_sets.Archive, manual_dir: pathlib.Path) -> str:
  """Returns what there is of an archive, without reading it.

  Args:
    archive: The archive.
    manual_dir: Where it would be.

  Returns:
    "there", "not there", or how its size is wrong.
  """
  path = manual_dir / archive.file_name
  if not path.is_file():
    return "not there"
  found = path.stat().st_size
  if found != archive.num_bytes:
    return (f"has {found:,} bytes; expected {archive.num_bytes:,}, so that it "
            "is not whole or another file")
  return "there"


def prepare(name: str, data_dir: pathlib.Path | None = None,
            manual_dir: pathlib.Path | None = None) -> pathlib.Path:
  """Prepares a data set, unless it is, and returns the directory it is in.

  TFDS writes to a temporary directory and renames it at the end. Archives that
  a person got are not held to their hash by TFDS; they are here.

  Args:
    name: TFDS' name, or "optical_digits".
    data_dir: TFDS' directory of data sets; None for TFDS' own default, and for
      the embedded digits one in the cache.
    manual_dir: Where archives are that a person got; None for
      `downloads/manual` in TFDS' directory.

  Raises:
    UnavailableError: if an archive is not there and cannot be downloaded.
    WriteError: if it cannot be written.
    UsageError: if there is no such data set.
    HubExportError: if an archive is not the published one, or has other
      content than TFDS expects.
  """
  if name.startswith(known_sets.FOLDER):
    raise errors.UsageError(
        f"{name} is a folder of images, which needs no preparing; expected "
        "TFDS' name of a data set")
  if name == digits.NAME:
    return pathlib.Path(digits.prepare(data_dir).data_path)
  builder = evaluation_sets.tfds_builder(name, data_dir)
  root = pathlib.Path(builder.data_dir_root)
  if evaluation_sets.is_prepared(builder):
    return pathlib.Path(builder.data_path)
  manual_dir = manual_dir or root / "downloads" / "manual"
  known = known_sets.find(name)
  if known:
    _check_archives(known, manual_dir,
                    evaluation_sets.prepare_command(known.name, root))
  with export_dirs.write_errors(root):
    root.mkdir(parents=True, exist_ok=True)
    if known:
      _check_space(known, root, manual_dir)
    lock = root / f".{builder.name}.lock"
    with export_dirs.lock(lock, create=True), _told(name, manual_dir):
      builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
          manual_dir=manual_dir, try_download_gcs=False))
  return pathlib.Path(builder.data_path)


def _check_archives(known: known_sets.KnownSet, manual_dir: pathlib.Path,
                    command: str) -> None:
  """Raises unless what a person has to get is there, and as published."""
  lines = known_sets.instructions(known, manual_dir, command)
  for archive in known.archives:
    path = manual_dir / archive.file_name
    state = archive_state(archive, manual_dir)
    if state == "not there" and not archive.url:
      raise errors.UnavailableError("\n".join([
          f"{known.name} cannot be prepared without {path}. Do this:",
          *(f"  {line}" for line in lines)]))
    if state.startswith("has"):
      raise errors.HubExportError(
          f"{path} {state}. Get it again from {archive.page}.")
    # TFDS itself holds those that it knows how to download to their hash.
    if state == "there" and not archive.url:
      found = _sha256(path)
      if found != archive.sha256:
        raise errors.HubExportError(
            f"{path} has the SHA-256 {found}; expected {archive.sha256}. Get "
            f"it again from {archive.page}.")


def _check_space(known: known_sets.KnownSet, root: pathlib.Path,
                 manual_dir: pathlib.Path) -> None:
  """Raises WriteError unless there is room."""
  needed = known.prepare_bytes + sum(
      a.num_bytes for a in known.archives
      if archive_state(a, manual_dir) != "there")
  free = shutil.disk_usage(root).free
  if free < needed:
    raise errors.WriteError(
        f"{root} has {known_sets.size_text(free)} free; preparing {known.name} "
        f"needs {known_sets.size_text(needed)}. Free some space or choose "
        "another directory with --data_dir.")


@contextlib.contextmanager
def _told(name: str, manual_dir: pathlib.Path) -> Iterator[None]:
  """Turns what TFDS raises into errors that say what to do."""
  try:
    yield
  except (requests.exceptions.RequestException, urllib.error.URLError,
          tfds.download.DownloadError) as e:
    raise errors.UnavailableError(
        f"{name} could not be downloaded ({_brief(e)}); expected a network "
        "connection to its publisher. Try again, or get its files by hand into "
        f"{manual_dir}; //checks:datasets lists them.") from e
  except download_manager.NonMatchingChecksumError as e:
    raise errors.HubExportError(
        f"a file of {name} is not the published one ({_brief(e)}). Remove it "
        "and get it again.") from e
  except OSError as e:
    if e.errno is not None:  # `write_errors` tells of it.
      raise
    raise errors.HubExportError(_failed(name, e)) from e
  except Exception as e:  # Builders raise what they like.
    raise errors.HubExportError(_failed(name, e)) from e


def _failed(name: str, error: Exception) -> str:
  return (f"TFDS could not prepare {name} ({type(error).__name__}: "
          f"{_brief(error)}); nothing half-written was left. Expected the "
          "published archives; get them again.")


def _brief(error: Exception) -> str:
  """Returns the start of an error's text, on one line."""
  text = " ".join(str(error).split())
  return text if len(text) <= 300 else f"{text[:300]} ..."


def _sha256(path: pathlib.Path) -> str:
  digest = hashlib.sha256()
  with open(path, "rb") as f:
    while chunk := f.read(_CHUNK_BYTES):
      digest.update(chunk)
  return digest.hexdigest()
