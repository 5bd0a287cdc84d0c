"""Reproducible .tar.gz archives of exports, as hub.load downloads them.

The model lies at the archive's root. Order, owners, modes and times are fixed,
so the same files give the same bytes on every run. Directories have entries of
their own, before what lies in them: TensorFlow Hub's reader (0.16.1) makes no
directory that the archive does not name, and fails on the first file in one.

Nothing here holds more than a block of a file in memory.
"""

import contextlib
import gzip
import hashlib
import io
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from hub_export import errors
from hub_export import export_dirs

_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755
_BLOCK_BYTES = 1 << 20
_MOST_KEPT_BYTES = 16 << 20  # Of a manifest; they have some 10 kB.
# zlib's default: float32 weights hardly get smaller with more.
_COMPRESSION_LEVEL = 6


def write(archive: pathlib.Path, export_dir: pathlib.Path) -> None:
  """Packs all of `export_dir` into `archive`, whole or not at all.

  Args:
    archive: Where to write; what is there already is replaced.
    export_dir: The files to pack; its own name does not come in.

  Raises:
    WriteError: if it cannot be written; nothing is left behind.
    HubExportError: if `export_dir` holds anything but files and directories.
  """
  with export_dirs.open_whole(archive) as raw:
    _pack(export_dir, raw)


def sha256(export_dir: pathlib.Path) -> tuple[str, int]:
  """Returns what the archive of `export_dir` has, without writing a file.

  It is packed into a digest: as long as Python's zlib is the same, `write`
  makes these very bytes.

  Returns:
    The SHA-256 of the archive in hexadecimal, and its size in bytes.

  Raises:
    HubExportError: if `export_dir` holds anything but files and directories,
      or one cannot be read.
  """
  digest = _Digest()
  try:
    _pack(export_dir, digest)
  except OSError as e:
    raise errors.HubExportError(
        f"{e.filename or export_dir} cannot be read ({e.strerror or e}); "
        "expected a file of an export. Make it readable, or export "
        "again.") from e
  return digest.hexdigest(), digest.tell()


def verify(archive: pathlib.Path, export_dir: pathlib.Path) -> None:
  """Reads `archive` back and compares it with the files it was made of.

  Raises:
    HubExportError: if it cannot be read to its end, or if a member is missing,
      too many, in the wrong order, neither file nor directory, or holds other
      bytes; all such members are named.
  """
  expected = dict(_entries(export_dir))
  found: dict[str, bool] = {}
  problems = []
  with _opened(archive, f"the archive of {export_dir}") as tar:
    for member in tar:
      problem = _member_problem(tar, member, found, expected, export_dir)
      if problem:
        problems.append(f"{member.name} {problem}")
      found[member.name] = member.isdir()
  problems += [f"{name} is missing" for name in expected if name not in found]
  if problems:
    raise errors.HubExportError(errors.join_problems(
        f"{archive} does not hold what {export_dir} does", problems,
        "Publish it again."))


def file_sha256s(archive: pathlib.Path, kept: str
                 ) -> tuple[dict[str, str], bytes | None]:
  """Returns the hashes of the files in an archive, which may be anybody's.

  Nothing is written, and little is kept in memory.

  Args:
    archive: The .tar.gz.
    kept: The path of one small file whose content is wanted.

  Returns:
    Relative path to SHA-256, and the content of `kept`, None if it is missing.

  Raises:
    HubExportError: if it cannot be read to its end, or if a member is neither
      file nor directory, is there twice, would not lie below the directory
      that it is unpacked in, or if `kept` is large; all such are named.
  """
  found: dict[str, str | None] = {}
  content = None
  problems = []
  with _opened(archive, "an archive of an export") as tar:
    for member in tar:
      name = member.name
      path = pathlib.PurePosixPath(name)
      if name in found:
        problems.append(f"{name} is there twice")
      elif path.is_absolute() or ".." in path.parts or str(path) != name:
        problems.append(f"{name!r} is no plain relative path")
      elif member.isdir():
        found[name] = None
      elif not member.isfile():
        problems.append(f"{name} is neither file nor directory")
      elif name == kept and member.size > _MOST_KEPT_BYTES:
        problems.append(f"{name} has {member.size} bytes, which is too much")
      elif name == kept:
        content = tar.extractfile(member).read()
        found[name] = hashlib.sha256(content).hexdigest()
      else:
        found[name] = _hexdigest(tar.extractfile(member))
  if problems:
    raise errors.HubExportError(errors.join_problems(
        f"{archive} is not as archives of exports are", problems,
        "Get it from the publisher again."))
  return {name: sha256 for name, sha256 in found.items() if sha256}, content


@contextlib.contextmanager
def _opened(archive: pathlib.Path, expected: str) -> Iterator[tarfile.TarFile]:
  """Yields an archive to be read to its end, and reads on to its checksum.

  Raises:
    HubExportError: if it cannot be read, in the block or after it.
  """
  try:
    with gzip.open(archive, "rb") as zipped:
      with tarfile.open(fileobj=zipped, mode="r|") as tar:
        yield tar
        # Other readers go on after a lone block of zeros, where this one ends.
        while block := tar.fileobj.read(_BLOCK_BYTES):
          if block.strip(b"\0"):
            raise tarfile.ReadError("there is more after its end")
      while zipped.read(_BLOCK_BYTES):  # The checksum stands at the very end.
        pass
  except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as e:
    raise errors.HubExportError(
        f"{archive} cannot be read ({e}); expected {expected}. Publish it, or "
        "get it, again.") from e


class _Digest(io.RawIOBase):
  """A file that keeps nothing of what is written but digest and size."""

  def __init__(self):
    super().__init__()
    self._sha256 = hashlib.sha256()
    self._size = 0

  def writable(self) -> bool:
    return True

  def write(self, block) -> int:
    self._sha256.update(block)
    self._size += len(block)
    return len(block)

  def tell(self) -> int:
    return self._size

  def hexdigest(self) -> str:
    return self._sha256.hexdigest()


def _pack(export_dir: pathlib.Path, raw: BinaryIO) -> None:
  """Writes the archive of `export_dir` to `raw`."""
  entries = _entries(export_dir)
  with (
      # No name and no time in gzip's header, and none of today's in tar's.
      gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0,
                    compresslevel=_COMPRESSION_LEVEL) as zipped,
      tarfile.open(fileobj=zipped, mode="w",
                   format=tarfile.PAX_FORMAT) as tar,
  ):
    for name, is_directory in entries:
      path = export_dir / name
      info = tarfile.TarInfo(name)  # Owners 0 without names, mtime 0.
      if is_directory:
        info.type = tarfile.DIRTYPE
        info.mode = _DIRECTORY_MODE
        tar.addfile(info)
      else:
        with open(path, "rb") as f:
          info.size = path.stat().st_size
          info.mode = _FILE_MODE
          tar.addfile(info, f)


def _member_problem(tar: tarfile.TarFile, member: tarfile.TarInfo,
                    found: dict[str, bool], expected: dict[str, bool],
                    export_dir: pathlib.Path) -> str | None:
  """Returns what is wrong with one member, None if nothing is."""
  if member.name in found:
    return "is there twice"
  if member.name not in expected:
    return "is not part of the export"
  parent = str(pathlib.PurePosixPath(member.name).parent)
  if parent != "." and parent not in found:
    return "comes before the entry of its directory"
  if member.isdir() != expected[member.name] or not (
      member.isdir() or member.isfile()):
    return "is of another kind"
  if member.isfile():
    packed = tar.extractfile(member)
    if _hexdigest(packed) != export_dirs.file_sha256(export_dir / member.name):
      return "holds other bytes"
  return None


def _entries(export_dir: pathlib.Path) -> list[tuple[str, bool]]:
  """Returns (relative path, is a directory), sorted: parents come first."""
  files = [(str(path), False) for path in export_dirs.files(export_dir)]
  directories = [(path.relative_to(export_dir).as_posix(), True)
                 for path in export_dir.rglob("*") if path.is_dir()]
  return sorted(files + directories)


def _hexdigest(f: BinaryIO) -> str:
  digest = hashlib.sha256()
  while block := f.read(_BLOCK_BYTES):
    digest.update(block)
  return digest.hexdigest()
