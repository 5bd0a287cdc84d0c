"""Zip archives from anywhere: directories of bounded size, and damaged ones."""

import io
import struct
import zipfile
from typing import BinaryIO

MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7.
# 2,100 members (the storages of the deepest variant with EMA weights and
# optimizer state) take 0.3 MB; a ZipInfo takes some ten times its entry.
MAX_DIRECTORY_BYTES = 4 << 20
_MAX_NAME_BYTES = 1 << 10
_ENCRYPTED, _UTF_8 = 0x1, 0x800  # Flags of a member, 4.4.4.
# What zipfile raises on damaged archives.
DAMAGE = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError,
          struct.error)
_UNDERSTOOD = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Guarded:
  """A file for zipfile that no directory makes take much memory."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.seek, self.tell = file.seek, file.tell
    self.seekable, self.close = file.seekable, file.close

  def read(self, size: int = -1) -> bytes:
    if size < 0 or size > MAX_DIRECTORY_BYTES:
      size = MAX_DIRECTORY_BYTES + 1
    data = self._file.read(size)
    if len(data) > MAX_DIRECTORY_BYTES:
      raise ValueError(
          f"its directory has more than {MAX_DIRECTORY_BYTES} bytes")
    return data


def opened(file: BinaryIO) -> zipfile.ZipFile:
  """Returns the archive in a file, which stays the caller's to close.

  Raises:
    DAMAGE: if it is damaged, or its directory is too large.
  """
  return zipfile.ZipFile(_Guarded(file))


def check_packing(info: zipfile.ZipInfo) -> None:
  """Raises ValueError if a member is encrypted, or may take any memory.

  What zipfile has unpacked of a deflated member is limited to what was asked
  for; of the other kinds, it is whatever the packed bytes become.
  """
  if info.flag_bits & _ENCRYPTED:
    raise ValueError(f"its member {info.filename[:100]!r} is encrypted")
  if info.compress_type not in _UNDERSTOOD:
    raise ValueError(f"{info.filename} is packed by method "
                     f"{info.compress_type}; expected none, or deflation")


def stored_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
  """Returns where the content of a member lies, which has to be as it is.

  Raises:
    ValueError: if it is packed or encrypted, or the directory is wrong.
  """
  check_packing(info)
  name = f"its member {info.filename[:100]!r}"
  if (info.compress_type != zipfile.ZIP_STORED
      or info.compress_size != info.file_size):
    raise ValueError(f"{name} is compressed")
  file.seek(info.header_offset)
  header = file.read(_LOCAL_HEADER.size)
  if len(header) != _LOCAL_HEADER.size or not header.startswith(MAGIC):
    raise ValueError(f"{name} is not where it is said")
  *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
  if file.read(name_bytes) != info.orig_filename.encode(
      "utf-8" if info.flag_bits & _UTF_8 else "cp437"):
    raise ValueError(f"{name} is not where it is said")
  start = file.tell() + extra_bytes
  if start + info.file_size > file.seek(0, io.SEEK_END):
    raise ValueError(f"{name} is cut off")
  return start


def first_name(file: BinaryIO) -> str:
  """Returns the name of the first member, "" if there is none.

  It stands at the start, so that an archive without its end has one as well.
  """
  file.seek(0)
  header = file.read(_LOCAL_HEADER.size)
  if len(header) != _LOCAL_HEADER.size or not header.startswith(MAGIC):
    return ""
  name_bytes = _LOCAL_HEADER.unpack(header)[-2]
  return file.read(min(name_bytes, _MAX_NAME_BYTES)).decode("utf-8", "replace")
