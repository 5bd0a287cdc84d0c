"""SHA-256 of published files: each is read once for as long as it stays.

Always of the bytes themselves: what a version's SHA256SUMS says of them is
only compared. Whoever replaces a file can give it any time, but not any hash.
"""

import contextlib
import pathlib
import re
import threading

from hub_export import export_dirs

_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_MAX_SUMS_BYTES = 1 << 20


class Hashes:
  """Knows the SHA-256 of files by their place, size and times of change."""

  def __init__(self):
    self._known: dict[pathlib.Path, tuple[tuple, str]] = {}
    # Two readers of one new page need not both hash gigabytes, and those of
    # other pages need not wait for them.
    self._locks: dict[pathlib.Path, threading.Lock] = {}

  def sha256(self, path: pathlib.Path) -> str:
    """Returns a file's SHA-256 in hexadecimal.

    Raises:
      OSError: if it cannot be read.
    """
    stamp = _stamp(path)
    if self._known.get(path, ("",))[0] != stamp:
      # One call, so that no two threads make one each.
      with self._locks.setdefault(path, threading.Lock()):
        if self._known.get(path, ("",))[0] != stamp:
          self._known[path] = stamp, export_dirs.file_sha256(path)
    return self._known[path][1]


class VersionHashes:
  """The hashes of one version's files, and what its SHA256SUMS says."""

  def __init__(self, hashes: Hashes, sums_path: pathlib.Path | None):
    self._hashes = hashes
    self._listed: dict[str, str] = {}
    if sums_path is not None:
      with contextlib.suppress(OSError):
        if sums_path.stat().st_size <= _MAX_SUMS_BYTES:
          self._listed = parse(sums_path.read_text("utf-8", "replace"))

  def sha256(self, path: pathlib.Path) -> str:
    """Returns a file's SHA-256 in hexadecimal.

    Raises:
      OSError: if it cannot be read.
    """
    return self._hashes.sha256(path)

  def is_as_listed(self, name: str, path: pathlib.Path) -> bool | None:
    """Returns whether a file is what SHA256SUMS says of `name`.

    None if it says nothing of that name: then nothing is read.

    Raises:
      OSError: if the file cannot be read.
    """
    listed = self._listed.get(name)
    return None if listed is None else listed == self.sha256(path)


def parse(text: str) -> dict[str, str]:
  """Returns name to SHA-256 of what `sha256sum` prints; other lines are left.
  """
  found = (_SUMS_LINE.fullmatch(line) for line in text.splitlines())
  return {match[2]: match[1] for match in found if match}


def _stamp(path: pathlib.Path) -> tuple:
  stat = path.stat()
  # The last is the system's own: nobody can set it back.
  return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
