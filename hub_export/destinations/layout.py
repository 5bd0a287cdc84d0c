"""What is published of a module's version, and under which names.

    <version>/                    the module
    <version>.tar.gz              its archive
    <version>.md                  its card
    <version>.checks.json         its report
    <version>.evaluations/*       what the card links to
    <version>.SHA256SUMS          hashes of all of these
    <version>.intoto.json         where the module is from
    <version>.sig                 its signature, if it was signed
    <version>.SHA256SUMS.sig      that of the hashes, likewise

Names are relative to the directory of all versions of a module. Remote places
get `parts`: everything as files or bytes, hashed, in the order in which it may
become visible.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from typing import BinaryIO

from hub_export import archive
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import releases
from hub_export import signatures
from hub_export import sums

ARCHIVE_SUFFIX = ".tar.gz"
SIGNATURE_SUFFIX = ".sig"
# Those of a version's documents that lie right beside it.
DOCUMENT_SUFFIXES = (".md", ".checks.json", ".SHA256SUMS", ".intoto.json",
                     SIGNATURE_SUFFIX, ".SHA256SUMS" + SIGNATURE_SUFFIX)
# Of the files in <version>.evaluations, what cards show or link to.
_ATTACHMENT_SUFFIXES = (".png", ".svg", ".html")
_CONTENT_TYPES = {
    ".tar.gz": "application/gzip", ".md": "text/markdown; charset=utf-8",
    ".json": "application/json", ".html": "text/html; charset=utf-8",
    ".png": "image/png", ".txt": "text/plain; charset=utf-8",
    ".SHA256SUMS": "text/plain; charset=utf-8", ".sig": "application/json"}


@dataclasses.dataclass(frozen=True)
class Part:
  """One file of a release."""
  name: str    # Such as "1/saved_model.pb" or "1.md".
  source: pathlib.Path | bytes
  bytes: int
  sha256: str  # Hexadecimal.

  def open(self) -> BinaryIO:
    """Returns it opened for reading."""
    return (io.BytesIO(self.source) if isinstance(self.source, bytes)
            else open(self.source, "rb"))

  @property
  def content_type(self) -> str:
    """Its media type, as browsers and hubs expect it."""
    for suffix, found in _CONTENT_TYPES.items():
      if self.name.endswith(suffix):
        return found
    return "application/octet-stream"


@contextlib.contextmanager
def parts(release: releases.Release) -> Iterator[tuple[Part, ...]]:
  """Makes the archive and yields all parts, hashed; the marker comes last.

  Before it come the archive, which is all of the module in one file, and
  before that the card, which links to what comes earlier still.

  Raises:
    WriteError: if the archive cannot be written, or the export has changed
      since `release` was read.
  """
  version = str(release.handle.version)
  with work_dir() as directory:
    packed = directory / (version + ARCHIVE_SUFFIX)
    archive.write(packed, release.export_dir)
    archive.verify(packed, release.export_dir)
    module = [_of_file(f"{version}/{name}", release.export_dir / name)
              for name in export_dirs.files(release.export_dir)]
    if digest(module, version) != release.export_sha256:
      raise errors.WriteError(
          f"{release.export_dir} is being changed while it is published; "
          "expected the bytes that were checked. Look into that, check it "
          "again, then publish.")
    documents = [of_bytes(name, content)
                 for name, content in release.documents]
    yield (*(p for p in module if not is_marker(p.name)), *documents,
           _of_file(packed.name, packed),
           *(p for p in module if is_marker(p.name)))


@contextlib.contextmanager
def work_dir() -> Iterator[pathlib.Path]:
  """Yields a directory of its own for temporary files; it goes in the end.

  Raises:
    WriteError: if it cannot be made.
  """
  with contextlib.ExitStack() as stack:
    with export_dirs.write_errors(pathlib.Path(tempfile.gettempdir())):
      made = stack.enter_context(
          tempfile.TemporaryDirectory(prefix="regnety_hub_publish_"))
    yield pathlib.Path(made)


def digest(module: Iterable[Part], version: str) -> str:
  """Returns `export_dirs.digest` of a module's parts."""
  return hashes_digest({p.name.removeprefix(f"{version}/"): p.sha256
                        for p in module})


def hashes_digest(sha256s: dict[str, str]) -> str:
  """Returns `export_dirs.digest` from each file's hash by its path."""
  lines = (sha256s[name].encode() + b"  " + os.fsencode(name) + b"\n"
           for name in sorted(sha256s, key=os.fsencode))
  return hashlib.sha256(b"".join(lines)).hexdigest()


def is_marker(name: str) -> bool:
  """Whether a part's name is that of the file that makes a module loadable."""
  return name.partition("/")[2] in forms.MARKERS


def published(names: Iterable[str]) -> set[int]:
  """Returns the versions whose markers are among the names of parts."""
  found = set()
  for name in names:
    version = name.partition("/")[0]
    if is_marker(name) and re.fullmatch(r"[1-9][0-9]*", version):
      found.add(int(version))
  return found


def is_module_file(name: str, version: int) -> bool:
  """Whether a part's name is that of a file of the module itself."""
  return name.startswith(f"{version}/")


def is_side_file(name: str, version: int) -> bool:
  """Whether a part's name is that of the archive or a document."""
  return (name == f"{version}{ARCHIVE_SUFFIX}"
          or name in {f"{version}{suffix}" for suffix in DOCUMENT_SUFFIXES}
          or (name.startswith(f"{version}{export_dirs.EVALUATIONS_SUFFIX}/")
              and name.endswith(_ATTACHMENT_SUFFIXES)))


def is_whole(names: Collection[str], version: int) -> bool:
  """Whether a version is published with all that goes with each."""
  return version in published(names) and all(
      f"{version}{suffix}" in names
      for suffix in (ARCHIVE_SUFFIX, ".md", ".checks.json"))


def stale(names: Collection[str], release: releases.Release) -> list[str]:
  """Returns which published documents are no longer part of `release`.

  Raises:
    HubExportError: if what is published is signed and `release` is not.
  """
  version = release.handle.version
  kept = {name for name, _ in release.documents}
  signature = f"{version}{SIGNATURE_SUFFIX}"
  if signature in names and signature not in kept:
    raise errors.HubExportError(
        f"{release.handle} is published with a signature, and nobody signs "
        "now; expected its key, so that users can go on verifying it. Publish "
        "with --private_key.")
  kept.add(f"{version}{ARCHIVE_SUFFIX}")
  return sorted(name for name in names
                if is_side_file(name, version) and name not in kept)


def check_signature(published: bytes, release: releases.Release) -> None:
  """Raises HubExportError if somebody else signs `release` than did before.

  Args:
    published: The signature that is published.
    release: What is to be published, with its signature.
  """
  name = f"{release.handle.version}{SIGNATURE_SUFFIX}"
  own = dict(release.documents).get(name)
  before = signatures.signer_name(published)
  now = own and signatures.signer_name(own)
  # A damaged one is made anew; that there is none now, `stale` tells.
  if before and now and before != now and not release.replaces_signature:
    raise errors.HubExportError(
        f"{release.handle} is published with a signature by {before}, and now "
        f"{now} signs; expected the same, by which users verify it. Publish "
        "with that key; if it was lost, tell the users, then say "
        "--replace_signature.")


def archive_sha256(release: releases.Release) -> str | None:
  """Returns what the sums of a release say of its archive; None without."""
  version = release.handle.version
  listed = dict(release.documents).get(f"{version}{sums.SUFFIX}", b"")
  found = re.search(rb"^([0-9a-f]{64})  %d\.tar\.gz$" % version, listed,
                    re.MULTILINE)
  return found[1].decode() if found else None


def _of_file(name: str, path: pathlib.Path) -> Part:
  return Part(name, path, path.stat().st_size, export_dirs.file_sha256(path))


def of_bytes(name: str, content: bytes) -> Part:
  """Returns a part that has its content with it."""
  return Part(name, content, len(content), hashlib.sha256(content).hexdigest())
