"""Whether a published module is what its publisher signed, all of it.

Four checks, each resting on the one before:

    signed sums  <version>.SHA256SUMS is signed by whom the user believes
    files        all that it names is there, as named, and nothing else
    signature    <version>.sig is of just the module's files, by the same
    provenance   <version>.intoto.json is of this module and its checkpoint

The first that fails is told, with all that it found. No network is used but for
reading what lies behind an address.
"""

import dataclasses
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from checks import side_files
from hub_export import archive
from hub_export import errors
from hub_export import export_dirs
from hub_export import provenance
from hub_export import signatures
from hub_export import signing_keys
from hub_export import sums
from hub_export import trust

_ARCHIVE_SUFFIX = ".tar.gz"
# Kaggle has nothing beside a module: there, the files lie in it.
_DOCUMENTS = "documents"
_SIGNATURE = trust.SIGNATURE_SUFFIX
_SIGNED_SUMS = sums.SUFFIX + trust.SIGNATURE_SUFFIX
_REPORT_SUFFIX = ".checks.json"
# kagglehub's own files beside a version in its cache.
_KAGGLE_MARKS = (".complete", ".archive")

Side = side_files.Directory | side_files.Address


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is to be verified, and where the files beside it lie.

  One of `export_dir` and `archive` is given, or neither: then the archive is
  downloaded from beside the others.
  """
  shown: str                     # For people.
  version: str                   # Which the files beside it are named after.
  side: Side
  export_dir: pathlib.Path | None = None
  archive: pathlib.Path | None = None
  claimed: str | None = None     # The handle that the place looks like.

  @property
  def is_nested(self) -> bool:
    """Whether the files beside the module lie in it, as Kaggle has them."""
    return (self.export_dir is not None
            and isinstance(self.side, side_files.Directory)
            and self.side.path == self.export_dir / _DOCUMENTS)


def nested(export_dir: pathlib.Path, beside: side_files.Directory
           ) -> side_files.Directory | None:
  """Returns the files beside a module if they lie in it, as Kaggle has them.

  They do not if anything of the version lies in `beside`, where it was found:
  whoever planted such files would keep those there from being looked at.
  """
  version, directory = export_dir.name, export_dir / _DOCUMENTS
  marks = {version + suffix for suffix in _KAGGLE_MARKS}
  is_there = directory.joinpath(version + _SIGNATURE).is_file()
  return (side_files.Directory(directory)
          if is_there and marks.issuperset(beside.names(version)) else None)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What was found out about a module that is as it should be."""
  handle: str
  signer: signatures.SignedBy
  num_files: int          # Of the module.
  num_beside: int | None  # Archive, card, report ...; None if not looked at.
  provenance: str | None  # A line for people; None if not looked at.


@dataclasses.dataclass(frozen=True)
class _Module:
  """The files of a module, read."""
  files: Mapping[str, str]  # Relative path to SHA-256.
  manifest: bytes | None    # As it is; it may be anybody's.


def verify(subject: Subject, verifier: signing_keys.Verifier,
           handle: str | None = None, module_only: bool = False) -> Verdict:
  """Returns what is known of a module now, if nothing is wrong with it.

  Args:
    subject: What to verify.
    verifier: Whose signature to believe.
    handle: Which module it has to be; None takes the one that `subject` is
      claimed to be, else any of that publisher. An old version under the
      address of a new one is signed, too.
    module_only: Whether only the module and its signature have to be there.

  Raises:
    ChecksError: if anything was altered, added, is missing, or was signed by
      somebody else. The message says which check failed, and lists all of it.
    HubExportError: if something cannot be read.
  """
  with tempfile.TemporaryDirectory() as scratch:
    if not subject.export_dir and not subject.archive:
      path = pathlib.Path(scratch, subject.version + _ARCHIVE_SUFFIX)
      subject.side.fetch(path.name, path)
      subject = dataclasses.replace(subject, archive=path)
    if module_only:
      module = _read_module(subject)
      signer = _check_signature(subject, module, verifier)
      found = _check_handle(subject, _manifest(subject, module), handle)
      return Verdict(found, signer, len(module.files), None, None)
    expected, sums_signer = _check_sums(subject, verifier)
    module, num_beside = _check_files(subject, expected)
    signer = _check_signature(subject, module, verifier)
    if signer != sums_signer:
      raise _failed(subject, "signature", [
          f"{subject.version}{_SIGNATURE} is signed by {signer.shown}, "
          f"{subject.version}{_SIGNED_SUMS} by {sums_signer.shown}"])
    manifest = _manifest(subject, module)
    statement = _check_provenance(
        subject, module, manifest, expected[subject.version + _ARCHIVE_SUFFIX])
    found = _check_handle(subject, manifest, handle)
    return Verdict(found, signer, len(module.files), num_beside,
                   provenance.summary(statement))


def _check_sums(subject: Subject, verifier: signing_keys.Verifier
                ) -> tuple[dict[str, str], signatures.SignedBy]:
  """Returns what the sums say, name to SHA-256, and who signed them."""
  what = subject.version + sums.SUFFIX
  content = _needed(subject, sums.SUFFIX)
  signature = _needed(subject, _SIGNED_SUMS)
  files = {signatures.FILE_ITSELF: hashlib.sha256(content).hexdigest()}
  try:
    signer = signatures.verify(signature, files, verifier)
  except errors.ChecksError as e:
    raise _failed(subject, "signed sums", [
        f"{what}{_SIGNATURE} does not sign {what}: {e}"]) from e
  try:
    expected = sums.parse(content, subject.version)
    if subject.version + _ARCHIVE_SUFFIX not in expected:
      raise errors.ChecksError(f"{what} names no {subject.version}"
                               f"{_ARCHIVE_SUFFIX}; expected the archive's")
    return expected, signer
  except errors.ChecksError as e:
    raise _failed(subject, "signed sums", [str(e)]) from e


def _check_files(subject: Subject, signed: Mapping[str, str]
                 ) -> tuple[_Module, int]:
  """Returns the module, and how many files beside it are as `signed` says."""
  version, side = subject.version, subject.side
  prefix, archive_name = f"{version}/", version + _ARCHIVE_SUFFIX
  expected = dict(signed)
  found = {}
  if subject.archive:
    found[archive_name] = export_dirs.file_sha256(subject.archive)
    # Nobody's archive is unpacked, not even in memory, but the publisher's.
    if found[archive_name] != expected[archive_name]:
      raise _failed(subject, "files", [
          f"{archive_name} differs: its sha256 is {found[archive_name]}; "
          f"expected {expected[archive_name]}"])
  elif subject.is_nested:
    del expected[archive_name]  # Kaggle packs archives itself.
  beside = {name for name in expected if not name.startswith(prefix)}
  there = (side_files.files(side.path) if subject.is_nested
           else side.names(version) or ())
  own = {version + suffix for suffix in (sums.SUFFIX, _SIGNED_SUMS, _SIGNATURE)}
  for name in sorted({*beside, *there} - own - set(found)):
    sha256 = side.sha256(name)
    if sha256:
      # Beside a module none has such a name; it must not pass for a module's.
      is_stray = name.startswith(prefix)
      found[f"{_DOCUMENTS}/{name}" if is_stray else name] = sha256
  module = _read_module(subject)
  found |= {prefix + name: sha256 for name, sha256 in module.files.items()}
  problems = signatures.differences(expected, found)
  if problems:
    raise _failed(subject, "files", problems)
  _check_report(subject, signed[archive_name])
  return module, len(beside)


def _check_report(subject: Subject, archive_sha256: str) -> None:
  """Raises ChecksError if the report, and so the card, is of other bytes."""
  name = subject.version + _REPORT_SUFFIX
  try:
    found = json.loads(subject.side.read(name) or b"{}").get("archive") or {}
    sha256 = found.get("sha256", archive_sha256)
  except (ValueError, AttributeError, RecursionError) as e:
    raise _failed(subject, "files", [
        f"{name} was signed, but is no report ({type(e).__name__}: {e})"]) from e
  if sha256 != archive_sha256:
    raise _failed(subject, "files", [
        f"{name} says that the archive's sha256 is {sha256}; expected "
        f"{archive_sha256}, that of the archive"])


def _check_signature(subject: Subject, module: _Module,
                     verifier: signing_keys.Verifier) -> signatures.SignedBy:
  """Returns who signed the module."""
  signature = _needed(subject, _SIGNATURE)
  try:
    return signatures.verify(signature, module.files, verifier)
  except errors.ChecksError as e:
    raise _failed(subject, "signature", [
        f"{subject.version}{_SIGNATURE} does not sign the module: {e}"]) from e


def _check_provenance(subject: Subject, module: _Module,
                      manifest: Mapping[str, Any], archive_sha256: str
                      ) -> bytes:
  """Returns the statement on where the module comes from, if it is true."""
  content = _needed(subject, provenance.SUFFIX)
  problems = provenance.problems(content, subject.version, module.files,
                                 archive_sha256, manifest)
  if problems:
    raise _failed(subject, "provenance", [
        f"{subject.version}{provenance.SUFFIX} {problem}"
        for problem in problems])
  return content


def _check_handle(subject: Subject, manifest: Mapping[str, Any],
                  handle: str | None) -> str:
  """Returns the handle, if it is the module that was asked for."""
  found = manifest["handle"]
  if handle and found != handle:
    raise _failed(subject, "handle", [
        f"it is {found}, signed by its publisher; expected {handle}"])
  if str(export_dirs.parse_handle(found).version) != subject.version:
    raise _failed(subject, "handle", [
        f"it is {found}, signed by its publisher, but lies where version "
        f"{subject.version} should"])
  if not handle and subject.claimed not in (None, found):
    raise _failed(subject, "handle", [
        f"it is {found}, signed by its publisher, but lies where "
        f"{subject.claimed} should; if {found} is what you want, say "
        f"--handle={found}"])
  return found


def _read_module(subject: Subject) -> _Module:
  """Returns a module's files.

  Raises:
    HubExportError: if there is anything but plain files, or one cannot be read.
  """
  if subject.archive:
    return _Module(*archive.file_sha256s(
        subject.archive, str(export_dirs.MANIFEST)))
  directory = side_files.Directory(subject.export_dir)
  names = [name for name in side_files.files(subject.export_dir)
           if not (subject.is_nested and name.startswith(f"{_DOCUMENTS}/"))]
  return _Module(
      {name: directory.sha256(name) for name in names},
      directory.read(str(export_dirs.MANIFEST)))


def _manifest(subject: Subject, module: _Module) -> dict[str, Any]:
  """Returns the manifest of a module that was signed.

  Raises:
    ChecksError: if it is none: the publisher signed something else.
  """
  try:
    manifest = json.loads(module.manifest or b"")
    export_dirs.parse_handle(manifest["handle"])
    return manifest
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError,
          errors.HubExportError) as e:
    raise _failed(subject, "handle", [
        f"it has no {export_dirs.MANIFEST} that can be read "
        f"({type(e).__name__}: {e}), though it was signed; expected an export"
    ]) from e


def _needed(subject: Subject, suffix: str) -> bytes:
  """Returns a file without which nothing can be verified."""
  name = subject.version + suffix
  content = subject.side.read(name)
  if content is None:
    raise errors.ChecksError(
        f"{subject.shown} cannot be verified: {subject.side.shown(name)} is "
        "missing; expected it from a publisher who signs. Get it from where "
        "the model is published, or say where it lies with --beside; with "
        f"--module_only {subject.version}{_SIGNATURE} alone is needed.")
  return content


def _failed(subject: Subject, check: str, problems: list[str]
            ) -> errors.ChecksError:
  return errors.ChecksError(errors.join_problems(
      f"{subject.shown} failed verification, check {check!r}", problems,
      "Do not use it. Get all of it again from where it is published, or ask "
      "its publisher."))
