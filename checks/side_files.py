"""The files beside a published module, in a directory or behind an address.

Names are relative to where the module's version lies: "1.SHA256SUMS",
"1.evaluations/imagenet2012-validation.html".
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from hub_export import download
from hub_export import errors
from hub_export import export_dirs
from hub_export import program

_BLOCK_BYTES = 1 << 20
# Signatures, sums and statements have some 10 kB; more is not read.
_MOST_BYTES = 64 << 20
_TIMEOUT_S = 20  # To connect, and between two pieces.
_RETRIES = 3
_BACKOFF_S = 0.5  # Before the second retry; doubled for the third.
_RETRIED_STATUS = (429, 500, 502, 503, 504)
_MISSING_STATUS = (404, 410)


class SideFiles(Protocol):
  """What lies beside a module."""

  def read(self, name: str) -> bytes | None:
    """Returns the content of a small file; None if it is missing.

    Raises:
      HubExportError: if it cannot be read, or is large.
    """

  def sha256(self, name: str) -> str | None:
    """Returns the SHA-256 of a file; None if it is missing.

    Raises:
      HubExportError: if it cannot be read.
    """

  def names(self, version: str) -> list[str] | None:
    """Returns all files beside a version; None where that cannot be told."""

  def parts(self) -> list[str]:
    """Returns the parts of the path where they lie."""

  def shown(self, name: str) -> str:
    """Returns where a file lies, for people."""


@dataclasses.dataclass(frozen=True)
class Directory:
  """The files in a directory."""
  path: pathlib.Path

  def read(self, name: str) -> bytes | None:
    """As `SideFiles.read`."""
    with self._opened(name) as f:
      return None if f is None else _bounded(
          f.read(_MOST_BYTES + 1), self.shown(name))

  def sha256(self, name: str) -> str | None:
    """As `SideFiles.sha256`."""
    with self._opened(name) as f:
      return None if f is None else _sha256(
          iter(lambda: f.read(_BLOCK_BYTES), b""))

  def names(self, version: str) -> list[str] | None:
    """As `SideFiles.names`."""
    found = []
    for path in self.path.glob(f"{version}.*"):
      found += ([f"{path.name}/{below}" for below in files(path)]
                if path.is_dir() and not path.is_symlink() else [path.name])
    return found

  def parts(self) -> list[str]:
    """As `SideFiles.parts`."""
    return list(pathlib.Path(os.path.abspath(self.path)).parts)

  def shown(self, name: str) -> str:
    """As `SideFiles.shown`."""
    return str(program.shown_path(self.path / name))

  @contextlib.contextmanager
  def _opened(self, name: str) -> Iterator[BinaryIO | None]:
    """Yields a file, None if it is missing; tells what is wrong with it."""
    try:
      with contextlib.ExitStack() as stack:
        try:
          f = stack.enter_context(open(self.path / name, "rb"))
        except (FileNotFoundError, NotADirectoryError):
          f = None
        yield f
    except OSError as e:
      raise errors.HubExportError(
          f"{self.shown(name)} cannot be read ({e.strerror}); expected a file "
          "of a published model. Make it readable.") from e


@dataclasses.dataclass(frozen=True)
class Address:
  """The files that a web server has, such as //hub_export:serve or a bucket."""
  url: str  # Ends with "/".

  def read(self, name: str) -> bytes | None:
    """As `SideFiles.read`."""
    with self._blocks(name) as blocks:
      if blocks is None:
        return None
      content = b""
      for block in blocks:
        content = _bounded(content + block, self.shown(name))
      return content

  def sha256(self, name: str) -> str | None:
    """As `SideFiles.sha256`."""
    with self._blocks(name) as blocks:
      return None if blocks is None else _sha256(blocks)

  def names(self, version: str) -> list[str] | None:
    """None: web servers list nothing."""
    del version

  def parts(self) -> list[str]:
    """As `SideFiles.parts`."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(self.url).path)
    return path.strip("/").split("/")

  def shown(self, name: str) -> str:
    """As `SideFiles.shown`; without passwords."""
    return download.shown(self.url) + urllib.parse.quote(name)

  def fetch(self, name: str, to: pathlib.Path) -> None:
    """Downloads a file, of whatever size.

    Raises:
      HubExportError: if it is missing or cannot be read.
      WriteError: if it cannot be written.
    """
    with self._blocks(name) as blocks:
      if blocks is None:
        raise errors.HubExportError(
            f"{self.shown(name)} is missing; expected a published model. Check "
            "the address.")
      with export_dirs.open_whole(to) as f:
        for block in blocks:
          f.write(block)

  @contextlib.contextmanager
  def _blocks(self, name: str) -> Iterator[Iterator[bytes] | None]:
    """Yields what the server sends, just as it is; None if it has no such."""
    # pylint: disable=g-import-not-at-top
    import requests
    import urllib3

    retry = urllib3.Retry(_RETRIES, backoff_factor=_BACKOFF_S,
                          raise_on_status=False,
                          status_forcelist=_RETRIED_STATUS)
    try:
      with requests.Session() as session:
        for scheme in ("http://", "https://"):
          session.mount(scheme, requests.adapters.HTTPAdapter(
              max_retries=retry))
        # A server that unpacked .tar.gz on the way would change its bytes.
        with session.get(self.url + urllib.parse.quote(name), stream=True,
                         timeout=_TIMEOUT_S,
                         headers={"Accept-Encoding": "identity"}) as answer:
          if answer.status_code in _MISSING_STATUS:
            yield None
            return
          if answer.status_code != 200:
            raise errors.HubExportError(
                f"{self.shown(name)} cannot be read: the server answers "
                f"{answer.status_code} {answer.reason}; expected 200. Check "
                "the address, and that everybody may read it.")
          yield answer.raw.stream(_BLOCK_BYTES, decode_content=False)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as e:
      raise errors.HubExportError(
          f"{self.shown(name)} cannot be read ({type(e).__name__}); expected a "
          "web server to send it. Check the address and the network, then try "
          "again.") from e


def files(directory: pathlib.Path) -> list[str]:
  """Returns the relative paths of all files below a directory, sorted.

  Files may be links, as those of huggingface_hub's cache are: what they lead to
  is what is read.

  Raises:
    HubExportError: if there is a link to a directory, or anything but files and
      directories, or if a directory cannot be read.
  """
  found = []
  for parent, directories, names in os.walk(directory, onerror=_raise_unread):
    for name in (*directories, *names):
      path = pathlib.Path(parent, name)
      is_plain = not path.is_symlink() if path.is_dir() else path.is_file()
      if not is_plain:
        raise errors.HubExportError(
            f"{path} is neither a file nor a directory; expected a published "
            "model to hold nothing else. Get it again.")
      if path.is_file():
        found.append(path.relative_to(directory).as_posix())
  return sorted(found)


def _raise_unread(error: OSError) -> None:
  raise errors.HubExportError(
      f"{error.filename} cannot be read ({error.strerror}); expected a "
      "directory of a published model. Make it readable.") from error


def at(place: str) -> tuple[Directory | Address, str]:
  """Returns the files beside what lies at a path or an address, and its name.

  Args:
    place: As the user typed it: "published/local/tiny/1" or
      "https://host/local/tiny/1".

  Raises:
    UsageError: if it is an address of another kind than http and https.
  """
  if "://" not in place:
    path = program.user_path(place)
    return Directory(path.parent), path.name
  parts = urllib.parse.urlsplit(place)
  if parts.scheme not in ("http", "https") or not parts.hostname:
    raise errors.UsageError(
        f"{download.shown(place)} is no address that can be verified; expected "
        "http://, https:// or a path. Download what it has, with all files "
        "beside it, and give the path.")
  # hub.load's own query may be there; a bucket's signed one covers one file.
  if parts.query not in ("", "tf-hub-format=compressed") or parts.fragment:
    raise errors.UsageError(
        f"{download.shown(place)} was given with a query; expected an address "
        "beside which the signature can be read, too. Download both and give "
        "the path.")
  parent, _, name = parts.path.rstrip("/").rpartition("/")
  return Address(urllib.parse.urlunsplit(
      (parts.scheme, parts.netloc, parent + "/", "", ""))), name


def _sha256(blocks: Iterator[bytes]) -> str:
  digest = hashlib.sha256()
  for block in blocks:
    digest.update(block)
  return digest.hexdigest()


def _bounded(content: bytes, shown: str) -> bytes:
  if len(content) > _MOST_BYTES:
    raise errors.HubExportError(
        f"{shown} has more than {_MOST_BYTES >> 20} MiB; expected a small "
        "file. Get it from the publisher again.")
  return content
