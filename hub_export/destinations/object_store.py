"""Publishing to a bucket: what S3 and Google Cloud Storage have in common.

Below <root>/<publisher>/<name>/ lies what `layout` lists. A bucket has no
rename, so a version is published when its saved_model.pb is there, or what
stands for it in other forms. The archive, which can be loaded without it, and
that object are made last, once all others have been read back, only if nobody
made them before, and do not stay unless they read back, too.

Publishers take turns by a claim, the object <version>.publishing.json, which
can be made only once and names the bytes and documents that are on their way.
Publishers of the same share it, so an interrupted upload is taken up by whoever
publishes the same again; what lies there already is kept if it reads back the
same. Others are refused until the claim is gone. No clock is consulted.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import releases
from hub_export.destinations import base
from hub_export.destinations import layout
from hub_export.destinations import remote

_CLAIM_SUFFIX = ".publishing.json"
_BLOCK_BYTES = 8 << 20


class Service(Protocol):
  """What differs between the stores."""
  access: remote.Access

  def open(self) -> Any:
    """Returns an fsspec file system; RemoteError without credentials."""

  def write_options(self, content_type: str) -> Mapping[str, Any]:
    """Returns the client's arguments that set an object's media type."""

  def fingerprint(self, info: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what changes whenever an object is written, from its info."""

  def next_steps(self, path: str, form: forms.Form) -> list[str]:
    """Returns how the module at bucket/path is loaded, one line each."""


class ObjectStore:
  """A `base.Destination` in a bucket."""

  is_remote = True

  def __init__(self, scheme: str, root: str, service: Service):
    """Connects to nothing yet.

    Args:
      scheme: Such as "s3".
      root: bucket, or bucket/prefix.
      service: The store.
    """
    self._scheme = scheme
    self._root = root
    self._service = service
    self._opened = None
    # SHA-256 by path and fingerprint of objects that were read once.
    self._read: dict[tuple[Any, ...], str] = {}

  def exists(self, handle: export_dirs.Handle) -> bool:
    """As `base.Destination.exists`."""
    found = self._list(handle)
    return layout.is_whole(found, handle.version)

  def plan(self, release: releases.Release) -> base.Plan:
    """As `base.Destination.plan`."""
    with layout.parts(release) as parts:
      outcome, writes, removes = self._changes(release, parts)
      return base.Plan(
          outcome,
          tuple((self._url(release.handle, p.name), p.bytes) for p in writes),
          tuple(self._url(release.handle, name) for name in removes))

  def put(self, release: releases.Release) -> base.Outcome:
    """As `base.Destination.put`."""
    with layout.parts(release) as parts:
      outcome, writes, removes = self._changes(release, parts)
      if outcome is base.Outcome.UNCHANGED:
        self._give_up(release, parts)  # One killed at the end left it.
        return outcome
      with self._claimed(release, parts):
        # Others may have come first, until it was claimed.
        outcome, writes, removes = self._changes(release, parts)
        last = [p for p in writes if layout.is_marker(p.name)
                or p.name.endswith(layout.ARCHIVE_SUFFIX)]
        for part in writes:
          if part not in last:
            self._write(release.handle, part)
        self._verify_parts(release, [p for p in parts if p not in last])
        self._remove(release.handle, removes)
        for part in last:
          self._make(release, part)
        self._check_module(release, parts, self._list(release.handle))
        return outcome

  def verify(self, release: releases.Release) -> None:
    """As `base.Destination.verify`."""
    with layout.parts(release) as parts:
      found = self._list(release.handle)
      self._check_module(release, parts, found)
      self._verify_parts(release, parts)
      stale = layout.stale(found, release)
      if stale:
        raise errors.HubExportError(errors.join_problems(
            f"{release.handle} is damaged in {self._where(release.handle)}",
            [f"{self._url(release.handle, name)} does not belong there"
             for name in stale], "Publish it again."))

  def write_pages(self, release: releases.Release) -> list[tuple[str, str]]:
    """As `base.Destination.write_pages`; there are none here."""
    del release
    return []

  def describe(self, handle: export_dirs.Handle) -> list[tuple[str, str]]:
    """As `base.Destination.describe`."""
    v = handle.version
    return [("module", self._url(handle, f"{v}/")),
            ("archive", self._url(handle, f"{v}{layout.ARCHIVE_SUFFIX}")),
            ("card", self._url(handle, f"{v}.md")),
            ("report", self._url(handle, f"{v}.checks.json"))]

  def next_steps(self, handle: export_dirs.Handle, form: forms.Form
                 ) -> list[str]:
    """As `base.Destination.next_steps`."""
    return self._service.next_steps(
        self._path(handle, str(handle.version)), form)

  # ----- What is there, and what would change

  def _changes(self, release: releases.Release,
               parts: tuple[layout.Part, ...]
               ) -> tuple[base.Outcome, list[layout.Part], list[str]]:
    """Returns the outcome of `put`, what it writes and what it removes."""
    version = release.handle.version
    found = self._list(release.handle)
    is_published = version in layout.published(found)
    if is_published:
      self._check_module(release, parts, found)
      signature = f"{version}{layout.SIGNATURE_SUFFIX}"
      if signature in found:
        with remote.calls(f"read {self._url(release.handle, signature)}",
                          self._service.access):
          content = self._fs().cat_file(self._path(release.handle, signature))
        layout.check_signature(content, release)
    self._check_claim(release, parts, found)
    for part in parts:
      if part.name == f"{version}{layout.ARCHIVE_SUFFIX}":
        self._check_archive(release, part, found)
    writes = [p for p in parts if not self._is_same(release.handle, p, found)]
    removes = layout.stale(found, release)
    if not is_published:
      # Of an upload of other bytes that was given up.
      names = {p.name for p in parts}
      removes += sorted(name for name in found if name not in names
                        and layout.is_module_file(name, version))
      return base.Outcome.PUBLISHED, writes, removes
    if writes or removes:
      return base.Outcome.RENEWED, writes, removes
    return base.Outcome.UNCHANGED, [], []

  def _check_module(self, release: releases.Release,
                    parts: tuple[layout.Part, ...],
                    found: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises HubExportError if the module is there with other bytes."""
    version = release.handle.version
    names = [name for name in found if layout.is_module_file(name, version)]
    expected = [p for p in parts if layout.is_module_file(p.name, version)]
    if set(names) == {p.name for p in expected} and all(
        self._is_same(release.handle, p, found) for p in expected):
      return
    sha256s = {
        name.removeprefix(f"{version}/"):
            self._sha256(release.handle, name, found[name]) for name in names}
    raise errors.HubExportError(base.taken(
        self._url(release.handle, f"{version}/"),
        layout.hashes_digest(sha256s), release))

  def _check_archive(self, release: releases.Release, part: layout.Part,
                     found: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises HubExportError if the archive is there with other bytes."""
    if part.name in found and not self._is_same(release.handle, part, found):
      raise errors.HubExportError(base.archive_taken(
          self._url(release.handle, part.name), part.sha256, release))

  def _verify_parts(self, release: releases.Release,
                    parts: list[layout.Part]) -> None:
    """Raises HubExportError unless all parts read back as they are here."""
    found = self._list(release.handle)
    problems = [
        f"{self._url(release.handle, p.name)} "
        f"{'differs' if p.name in found else 'is missing'}"
        for p in parts if not self._is_same(release.handle, p, found)]
    if problems:
      raise errors.HubExportError(errors.join_problems(
          f"{release.handle} does not read back from "
          f"{self._where(release.handle)} as it was sent", problems,
          "Publish it again."))

  def _is_same(self, handle: export_dirs.Handle, part: layout.Part,
               found: Mapping[str, Mapping[str, Any]]) -> bool:
    info = found.get(part.name)
    return (info is not None and info["size"] == part.bytes
            and self._sha256(handle, part.name, info) == part.sha256)

  def _list(self, handle: export_dirs.Handle) -> dict[str, Mapping[str, Any]]:
    """Returns what lies there of one version, the client's info by name."""
    where = self._where(handle)
    with remote.calls(f"list {where}", self._service.access):
      fs = self._fs()
      fs.invalidate_cache()
      found = fs.find(self._path(handle, ""), detail=True,
                      prefix=str(handle.version))
    names = {path.removeprefix(self._path(handle, "")): info
             for path, info in found.items() if info["type"] == "file"}
    version = handle.version
    return {name: info for name, info in names.items()
            if layout.is_module_file(name, version)
            or layout.is_side_file(name, version)
            or name == self._claim_name(handle)}

  def _sha256(self, handle: export_dirs.Handle, name: str,
              info: Mapping[str, Any]) -> str:
    """Returns the hash of an object's bytes, reading them at most once."""
    path = self._path(handle, name)
    key = (path, *self._service.fingerprint(info))
    if key not in self._read:
      digest = hashlib.sha256()
      with remote.calls(f"read {self._url(handle, name)}",
                        self._service.access):
        with self._fs().open(path, "rb", block_size=_BLOCK_BYTES) as f:
          while block := f.read(_BLOCK_BYTES):
            digest.update(block)
      self._read[key] = digest.hexdigest()
    return self._read[key]

  # ----- Taking turns

  @contextlib.contextmanager
  def _claimed(self, release: releases.Release,
               parts: tuple[layout.Part, ...]) -> Iterator[None]:
    """Makes the claim or shares it; takes it away if all went well.

    Otherwise it stays: another publisher of the same may be at work.
    """
    name = self._claim_name(release.handle)
    claim = json.dumps({
        "handle": str(release.handle), "export_sha256": release.export_sha256,
        "all_sha256": _digest(parts)}).encode()
    with remote.calls(f"write {self._url(release.handle, name)}",
                      self._service.access):
      with contextlib.suppress(FileExistsError):
        self._fs().pipe_file(
            self._path(release.handle, name), claim, mode="create",
            **self._service.write_options("application/json"))
    self._check_claim(release, parts, self._list(release.handle))
    try:
      yield
    except errors.RemoteError:
      raise
    except errors.HubExportError:
      # Refused because the version is taken, or does not read back.
      self._give_up(release, parts)
      raise
    self._remove(release.handle, [name])

  def _give_up(self, release: releases.Release,
               parts: tuple[layout.Part, ...]) -> None:
    """Takes the own claim away where the version is published."""
    found = self._list(release.handle)
    name = self._claim_name(release.handle)
    if (release.handle.version in layout.published(found)
        and self._claim(release, found).get("all_sha256") == _digest(parts)):
      self._remove(release.handle, [name])

  def _check_claim(self, release: releases.Release,
                   parts: tuple[layout.Part, ...],
                   found: Mapping[str, Any]) -> None:
    """Raises HubExportError if anything else is being published."""
    claim = self._claim(release, found)
    if not claim or claim.get("all_sha256") == _digest(parts):
      return
    url = self._url(release.handle, self._claim_name(release.handle))
    claimed = claim.get("export_sha256", "unknown")
    what = "documents" if claimed == release.export_sha256 else "bytes"
    raise errors.HubExportError(
        f"{release.handle} is being published with other {what}, or that was "
        f"left unfinished: {url} names sha256 {claimed}, {release.export_dir} "
        f"has {release.export_sha256}; expected one publisher. Publish those "
        "bytes and documents, or export a new version; if nobody publishes "
        f"them any longer, delete {url} and publish again.")

  def _claim(self, release: releases.Release, found: Mapping[str, Any]
             ) -> Mapping[str, Any]:
    """Returns what the claim says, {} if there is none any longer."""
    name = self._claim_name(release.handle)
    if name not in found:
      return {}
    with remote.calls(f"read {self._url(release.handle, name)}",
                      self._service.access):
      try:
        content = self._fs().cat_file(self._path(release.handle, name))
      except FileNotFoundError:
        return {}  # Its publisher has just finished.
    with contextlib.suppress(ValueError):
      claim = json.loads(content)
      if isinstance(claim, dict) and claim:
        return claim
    return {"export_sha256": "unknown"}

  def _claim_name(self, handle: export_dirs.Handle) -> str:
    return f"{handle.version}{_CLAIM_SUFFIX}"

  # ----- Single objects

  def _make(self, release: releases.Release, part: layout.Part) -> None:
    """Makes what users load; it goes again unless it reads back."""
    if not self._write(release.handle, part, mode="create"):
      return  # It is not ours to take away; it is compared with the others.
    try:
      self._verify_parts(release, [part])
    except errors.RemoteError:
      raise
    except errors.HubExportError:
      self._remove(release.handle, [part.name])
      raise

  def _write(self, handle: export_dirs.Handle, part: layout.Part,
             mode: str = "overwrite") -> bool:
    """Writes an object; False if it was to be made and is there already."""
    path, url = self._path(handle, part.name), self._url(handle, part.name)
    options = dict(self._service.write_options(part.content_type), mode=mode)
    with remote.calls(f"write {url}", self._service.access):
      try:
        if isinstance(part.source, bytes):
          self._fs().pipe_file(path, part.source, **options)
        else:
          self._fs().put_file(str(part.source), path, **options)
      except FileExistsError:
        # Somebody with the same claim was quicker; `verify` compares.
        if mode != "create":
          raise
        return False
    return True

  def _remove(self, handle: export_dirs.Handle, names: list[str]) -> None:
    for name in names:
      with remote.calls(f"delete {self._url(handle, name)}",
                        self._service.access):
        with contextlib.suppress(FileNotFoundError):
          self._fs().rm_file(self._path(handle, name))

  def _fs(self) -> Any:
    if self._opened is None:
      self._opened = self._service.open()
    return self._opened

  def _path(self, handle: export_dirs.Handle, name: str) -> str:
    return f"{self._root}/{handle.publisher}/{handle.name}/{name}"

  def _url(self, handle: export_dirs.Handle, name: str) -> str:
    return f"{self._scheme}://{self._path(handle, name)}"

  def _where(self, handle: export_dirs.Handle) -> str:
    return self._url(handle, "").removesuffix("/")


def _digest(parts: tuple[layout.Part, ...]) -> str:
  """Returns one hash of module, archive and documents."""
  return layout.hashes_digest({p.name: p.sha256 for p in parts})


def root(scheme: str, to: str) -> str:
  """Returns the bucket, or bucket/prefix, that a URL names.

  Raises:
    UsageError: if it names none, or more than that.
  """
  path = to.partition("://")[2].rstrip("/")
  parts = path.split("/")
  if (not re.fullmatch(r"[a-z0-9][a-z0-9._-]+", parts[0])
      or any(part in ("", ".", "..") or re.search(r"[?#*\[\]@:\s]", part)
             for part in parts)):
    raise errors.UsageError(
        f"--to={remote.redact(to)} names no place in a bucket; "
        f"expected {scheme}://bucket or {scheme}://bucket/prefix, the bucket in "
        "lower-case letters, digits, dots and hyphens")
  return path
