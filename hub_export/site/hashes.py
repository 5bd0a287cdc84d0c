"""SHA-256 of published files: each is read once for as long as it stays.

What a version's SHA256SUMS says of a file is taken over if it was written
after that file: publishing read both back. All else is hashed here.
"""

import contextlib
import pathlib
import re
import threading

from hub_export import export_dirs

_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_MAX_SUMS_BYTES = 1 << 20


class Hashes:
  """Knows the SHA-256 of files by their place, size and time of change."""

  def __init__(self):
    self._known: dict[tuple, str] = {}
    # Two readers of one new page need not both hash gigabytes.
    self._lock = threading.Lock()

  def sha256(self, path: pathlib.Path) -> str:
    """Returns a file's SHA-256 in hexadecimal.

    Raises:
      OSError: if it cannot be read.
    """
    key = _key(path)
    if key not in self._known:
      with self._lock:
        if key not in self._known:
          self._known[key] = export_dirs.file_sha256(path)
    return self._known[key]


class VersionHashes:
  """The hashes of one version's files, by what its SHA256SUMS says."""

  def __init__(self, hashes: Hashes, sums_path: pathlib.Path | None):
    self._hashes = hashes
    self._listed: dict[str, str] = {}
    self._listed_ns = 0
    if sums_path is not None:
      with contextlib.suppress(OSError):
        stat = sums_path.stat()
        if stat.st_size <= _MAX_SUMS_BYTES:
          self._listed = parse(sums_path.read_text("utf-8", "replace"))
          self._listed_ns = stat.st_mtime_ns

  def sha256(self, name: str, path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file that SHA256SUMS calls `name`.

    Raises:
      OSError: if it cannot be read.
    """
    listed = self._listed.get(name)
    if listed is not None and path.stat().st_mtime_ns <= self._listed_ns:
      return listed
    return self._hashes.sha256(path)


def parse(text: str) -> dict[str, str]:
  """Returns name to SHA-256 of what `sha256sum` prints; other lines are left.
  """
  found = (_SUMS_LINE.fullmatch(line) for line in text.splitlines())
  return {match[2]: match[1] for match in found if match}


def _key(path: pathlib.Path) -> tuple:
  stat = path.stat()
  return (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)
