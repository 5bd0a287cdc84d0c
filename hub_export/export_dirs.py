"""Names and places of exports, their digests, and writing that is all or none.

    <output_dir>/<publisher>/<name>/<version>/              the SavedModel
    <output_dir>/<publisher>/<name>/<version>.checks.json   the report
    <output_dir>/<publisher>/<name>/<version>.md            the card

Nothing here imports TensorFlow or NumPy: what only copies starts at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from hub_export import errors

if TYPE_CHECKING:
  import numpy as np

MANIFEST = pathlib.PurePosixPath("assets.extra/manifest.json")
GOLDEN = pathlib.PurePosixPath("assets.extra/golden.npz")
LABELS = pathlib.PurePosixPath("assets/labels.txt")

# tfhub.dev's documentation validator accepts these, and no others. Names that
# start with a dot it accepts too; here they are refused, because ".." is no
# directory of its own.
_PUBLISHER = re.compile(r"[a-z0-9-]+")
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_PART = ".part"  # Ends the names of files that are being written.


@dataclasses.dataclass(frozen=True)
class Handle:
  """What a published model is called: publisher/name/version."""
  publisher: str  # Lower-case letters, digits and hyphens.
  name: str       # Such as "regnety600mf_classification".
  version: int    # From 1 up.

  def __str__(self) -> str:
    return f"{self.publisher}/{self.name}/{self.version}"


def parse_handle(text: str) -> Handle:
  """Returns the handle written as "publisher/name/version".

  Raises:
    HubExportError: if `text` is not of that form.
  """
  parts = text.split("/")
  if (len(parts) == 3 and _PUBLISHER.fullmatch(parts[0])
      and _NAME.fullmatch(parts[1]) and _VERSION.fullmatch(parts[2])):
    return Handle(parts[0], parts[1], int(parts[2]))
  raise errors.HubExportError(
      f"{text!r} is not a handle; expected publisher/name/version, such as "
      "local/regnety600mf_classification/1")


def check_publisher(publisher: str) -> None:
  """Raises UsageError unless `publisher` may stand in a handle."""
  if not _PUBLISHER.fullmatch(publisher):
    raise errors.UsageError(
        f"publisher {publisher!r} has characters that TensorFlow Hub does not "
        "take; expected lower-case letters, digits and hyphens")


def versions(model_dir: pathlib.Path) -> list[int]:
  """Returns the versions in `<output_dir>/<publisher>/<name>`, ascending."""
  if not model_dir.is_dir():
    return []
  return sorted(int(p.name) for p in model_dir.iterdir()
                if _VERSION.fullmatch(p.name) and p.is_dir())


def read_manifest(export_dir: pathlib.Path) -> dict[str, Any]:
  """Returns the manifest of one module's version.

  Raises:
    HubExportError: if there is no export there or its manifest is damaged.
  """
  path = export_dir / MANIFEST
  try:
    manifest = json.loads(path.read_text("utf-8"))
    parse_handle(str(manifest["handle"]))
    return manifest
  except FileNotFoundError:
    found = versions(export_dir)
    hint = (f"did you mean {export_dir / str(found[-1])}?" if found else
            "make one with the export program")
    raise errors.HubExportError(
        f"{export_dir} is not an export: it has no {MANIFEST}; expected the "
        f"directory of one version; {hint}") from None
  except (OSError, ValueError, KeyError, TypeError, RecursionError,
          errors.HubExportError) as e:
    raise errors.HubExportError(
        f"{path} cannot be read ({e}); expected the JSON manifest of an "
        "export. Export the checkpoint again.") from e


def report_path(export_dir: pathlib.Path) -> pathlib.Path:
  """Returns where the report of one module's version lies."""
  return export_dir.with_name(export_dir.name + ".checks.json")


def card_path(export_dir: pathlib.Path) -> pathlib.Path:
  """Returns where the card of one module's version lies."""
  return export_dir.with_name(export_dir.name + ".md")


def files(directory: pathlib.Path) -> list[pathlib.PurePosixPath]:
  """Returns the relative paths of all files below `directory`, sorted.

  Raises:
    HubExportError: if there is anything but plain files and directories, or a
      directory cannot be read.
  """
  found = []
  # Path.rglob would pass over directories that it may not read.
  for parent, directories, names in os.walk(directory, onerror=_raise_unread):
    for name in (*directories, *names):
      path = pathlib.Path(parent, name)
      if path.is_symlink() or not (path.is_file() or path.is_dir()):
        raise errors.HubExportError(
            f"{path} is neither a file nor a directory; expected an export to "
            "hold nothing else. Remove it, or export again.")
      if path.is_file():
        found.append(pathlib.PurePosixPath(path.relative_to(directory)))
  return sorted(found, key=os.fsencode)


def _raise_unread(error: OSError) -> None:
  raise errors.HubExportError(
      f"{error.filename} cannot be read ({error.strerror}); expected a file or "
      "directory of an export. Make it readable, or export again.") from error


def file_sha256(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file's bytes, in hexadecimal."""
  with open(path, "rb") as f:
    digest = hashlib.sha256()
    while block := f.read(1 << 20):
      digest.update(block)
    return digest.hexdigest()


def digest(export_dir: pathlib.Path) -> str:
  """Returns the SHA-256 over all files of an export, names and bytes.

  It is the SHA-256 of what `sha256sum` prints for the files in sorted order:
  a line "<sha256>  <relative path>" each.

  Raises:
    HubExportError: if there is anything but plain files and directories, or
      one cannot be read.
  """
  lines = []
  for path in files(export_dir):
    try:
      sha256 = file_sha256(export_dir / path)
    except OSError as e:
      _raise_unread(e)
    lines.append(sha256.encode() + b"  " + os.fsencode(path) + b"\n")
  return hashlib.sha256(b"".join(lines)).hexdigest()


class WeightsDigest:
  """The SHA-256 over names, shapes and values of tensors, one after another.

  For each it takes a line "<name> <shape>", the shape as Python writes a tuple,
  and the values: float32, little-endian, C order.
  """

  def __init__(self):
    self._last = ""
    self._whole = hashlib.sha256()
    self._backbone = hashlib.sha256()

  def update(self, name: str, tensor: np.ndarray) -> None:
    """Takes in a tensor; names have to come in sorted order.

    Args:
      name: Canonical name, such as "stem/conv".
      tensor: float32 of any shape.

    Raises:
      ValueError: if the name does not come after the one before.
    """
    if name <= self._last:
      raise ValueError(f"{name} comes after {self._last}, out of order")
    self._last = name
    values = tensor.astype("<f4", order="C", copy=False)
    for digest in ((self._whole,) if name.startswith("head/")
                   else (self._whole, self._backbone)):
      digest.update(f"{name} {values.shape}\n".encode())
      digest.update(values.data if values.size else b"")

  def hexdigests(self) -> dict[str, str]:
    """Returns "sha256" of all, and "backbone_sha256" of all but the head."""
    return {"sha256": self._whole.hexdigest(),
            "backbone_sha256": self._backbone.hexdigest()}


def write_file(path: pathlib.Path, content: bytes | str) -> None:
  """Writes a whole file or none.

  Raises:
    WriteError: if it cannot be written; nothing is left behind.
  """
  data = content.encode() if isinstance(content, str) else content
  with open_whole(path) as f:
    f.write(data)


@contextlib.contextmanager
def open_whole(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file for writing that appears whole, at the block's end, or never.

  It is written to a temporary name, flushed, then renamed. Its writer holds a
  lock on it, so that the next one can tell what a killed one left (no lock).

  Raises:
    WriteError: if it cannot be written; nothing is left behind.
  """
  with write_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    fd, temporary = _locked_temporary(path)
    try:
      with os.fdopen(fd, "wb") as f:
        yield f
        f.flush()
        os.fsync(f.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it readable for one user.
        os.replace(temporary, path)  # While it is locked.
    except BaseException:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
      raise
    fsync(path.parent)


def _locked_temporary(path: pathlib.Path) -> tuple[int, str]:
  """Returns descriptor and name of a new locked file beside `path`."""
  while True:
    fd, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
    try:
      # Some network file systems have no locks; nothing is removed there.
      with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX)
      # Before it was locked, another writer may have taken it for a left one.
      if os.fstat(fd).st_nlink:
        return fd, temporary
    except BaseException:
      os.close(fd)
      raise
    os.close(fd)


def _remove_left(path: pathlib.Path) -> None:
  """Removes what killed writers of `path` left beside it."""
  pattern = re.compile(re.escape(f".{path.name}.") + r"\w{8}" + _PART)
  for left in os.listdir(path.parent):
    if pattern.fullmatch(left):
      # Another still writes it, or was quicker, or there are no locks.
      with contextlib.suppress(OSError):
        with lock(path.with_name(left), wait=False):
          path.with_name(left).unlink()


def fsync(path: pathlib.Path) -> None:
  """Makes a file's bytes or a directory's entries last through a power cut."""
  fd = os.open(path, os.O_RDONLY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


@contextlib.contextmanager
def lock(path: pathlib.Path, wait: bool = True,
         create: bool = False) -> Iterator[None]:
  """Holds an exclusive lock, which goes with the process however that ends.

  Args:
    path: A directory or a file.
    wait: Whether to wait for another process that holds it.
    create: Whether to make an empty file of that name if nothing is there.

  Raises:
    BlockingIOError: if another process holds it and `wait` is False.
    FileNotFoundError: if nothing is there and `create` is False.
  """
  fd = os.open(path, os.O_RDONLY | (os.O_CREAT if create else 0), 0o644)
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    yield
  finally:
    os.close(fd)


@contextlib.contextmanager
def write_errors(path: pathlib.Path) -> Iterator[None]:
  """Turns an OSError of the block into a WriteError that says what to do."""
  try:
    yield
  except OSError as e:
    advice = {
        errno.ENOSPC: "Free some space or choose another directory.",
        errno.EDQUOT: "Free some space or choose another directory.",
        errno.EFBIG: "Raise the limit on file sizes (ulimit -f) or choose "
                     "another directory.",
        errno.EROFS: "It is read-only; choose another directory.",
        errno.EACCES: "Choose a directory that you may write to.",
        errno.EPERM: "Choose a directory that you may write to.",
    }.get(e.errno, "Choose a directory that can be written to.")
    raise errors.WriteError(
        f"cannot write {path}: {e.strerror or e}. {advice}") from e
