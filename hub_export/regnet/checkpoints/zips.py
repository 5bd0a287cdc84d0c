"""Zip archives from anywhere: directories of bounded size, and damaged ones."""

import struct
import zipfile
from typing import BinaryIO

MAGIC = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7.
# 2,100 members (the storages of the deepest variant with EMA weights and
# optimizer state) take 0.3 MB; a ZipInfo takes some ten times its entry.
MAX_DIRECTORY_BYTES = 4 << 20
_MAX_NAME_BYTES = 1 << 10
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
    ValueError: if its directory is too large.
    zipfile.BadZipFile: if it is damaged; NotImplementedError or struct.error as
      well, whatever zipfile comes across.
  """
  return zipfile.ZipFile(_Guarded(file))


def check_packing(info: zipfile.ZipInfo) -> None:
  """Raises ValueError if unpacking a part of a member may take any memory.

  What zipfile has unpacked of a deflated member is limited to what was asked
  for; of the other kinds, it is whatever the packed bytes become.
  """
  if info.compress_type not in _UNDERSTOOD:
    raise ValueError(f"{info.filename} is packed by method "
                     f"{info.compress_type}; expected none, or deflation")


def first_name(file: BinaryIO) -> str:
  """Returns the name of the first member, "" if there is none.

  It stands at the start, so that an archive without its end has one as well.
  """
  file.seek(0)
  header = file.read(LOCAL_HEADER.size)
  if len(header) != LOCAL_HEADER.size or not header.startswith(MAGIC):
    return ""
  name_bytes = LOCAL_HEADER.unpack(header)[-2]
  return file.read(min(name_bytes, _MAX_NAME_BYTES)).decode("utf-8", "replace")
