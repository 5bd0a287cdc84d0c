"""Writes modules as versions of their own: whole or not at all, never over one.

A module is a SavedModel, or whatever files its form consists of; what lies
beside them, and how they get to their place, is the same for all.

A version is made in a temporary directory beside its place, flushed to disk and
renamed. Whoever makes it holds a lock on the temporary directory, so that the
next run can tell what a killed one left behind (no lock) from what another is
still writing. Versions are given out under a lock on the module's directory.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import hub_export
from hub_export import canonical
from hub_export import errors
from hub_export import export_dirs
from hub_export import hub_module

SCHEMA_VERSION = 1
_TEMPORARY = ".tmp-"
# A version as export_dirs has it, or what lies beside one, "7.md".
_VERSION = re.compile(r"[1-9][0-9]{0,8}(?=\.|\Z)")
_MAKE_ATTEMPTS = 1000  # Each failed one means that another has just failed.
_GRAPH_BYTES = 8 << 20  # Rough size of what is written beside the weights.


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write` did."""
  export_dir: pathlib.Path
  is_new: bool         # False: the version had this very content already.


Module = hub_module.HubModule | hub_module.Payload


def write(module: Module, output_dir: pathlib.Path,
          publisher: str, force: bool = False) -> Written:
  """Writes `module` as the next version of publisher/name.

  Args:
    module: What to write.
    output_dir: The directory of all exports; made if it is not there.
    publisher: First part of the handle.
    force: Whether to make a new version of what is one already.

  Returns:
    The version's directory, and whether it is new.

  Raises:
    WriteError: if the target cannot be written or is full; nothing is left.
    UsageError: if the publisher's name is not fit for a handle.
  """
  export_dirs.check_publisher(publisher)
  model_dir = output_dir / publisher / module.name
  with export_dirs.write_errors(output_dir), _made(model_dir):
    with _temporary(model_dir) as temporary:
      # Only now, when nobody else can take the directory away as empty.
      clean(model_dir)
      _check_space(module, model_dir)
      manifest = _write_content(module, publisher, temporary)
      return _commit(manifest, temporary, model_dir, publisher, force)


def clean(model_dir: pathlib.Path) -> list[pathlib.Path]:
  """Removes, and returns, what killed runs left in a module's directory."""
  removed = []
  with export_dirs.lock(model_dir):
    for path in sorted(model_dir.glob(_TEMPORARY + "*")):
      if path.is_symlink() or not path.is_dir():
        continue  # Not made here.
      with contextlib.suppress(BlockingIOError, FileNotFoundError):
        with export_dirs.lock(path, wait=False):
          shutil.rmtree(path)
          removed.append(path)
  return removed


def save(root: tf.Module, signatures: hub_module.Signatures,
         directory: pathlib.Path) -> None:
  """Writes a SavedModel's files, the same bytes in every process.

  Args:
    root: What hub.load is to give back.
    signatures: By their names.
    directory: Of the files; what else lies there stays.

  Raises:
    OSError: if the directory cannot be written.
  """
  try:
    tf.saved_model.save(root, str(directory), signatures=dict(signatures))
  except tf.errors.OpError as e:
    # TensorFlow's file system has error codes of its own.
    code = (errno.ENOSPC if isinstance(e, tf.errors.ResourceExhaustedError)
            else errno.EIO)
    raise OSError(code, e.message) from e
  canonical.canonicalise(directory)


def _write_content(module: Module, publisher: str,
                   directory: pathlib.Path) -> dict[str, Any]:
  """Writes all but the manifest; returns that, without its handle."""
  if isinstance(module, hub_module.Payload):
    module.write(directory)
    manifest = _manifest(module, publisher)
    manifest["files"] = _described(directory)
  else:
    save(module.root, module.signatures, directory)
    manifest = _manifest(module, publisher)
  if module.labels:
    content = "".join(f"{label}\n" for label in module.labels).encode()
    _write(directory / export_dirs.LABELS, content)
    manifest["labels"] = {
        "file": str(export_dirs.LABELS), "count": len(module.labels),
        "sha256": hashlib.sha256(content).hexdigest()}
  golden = directory / export_dirs.GOLDEN
  golden.parent.mkdir(exist_ok=True)
  # numpy dates the members of its archives 1980, so the bytes repeat.
  np.savez(golden, images=module.golden_images, outputs=module.golden_outputs,
           noise=np.float32(module.golden_noise))
  return manifest


def _described(directory: pathlib.Path) -> list[dict[str, Any]]:
  """Returns name, size and hash of each file, sorted by name."""
  return [{"name": str(name), "bytes": (directory / name).stat().st_size,
           "sha256": export_dirs.file_sha256(directory / name)}
          for name in export_dirs.files(directory)]


def _manifest(module: Module, publisher: str) -> dict[str, Any]:
  """Returns the manifest without handle and labels."""
  manifest = dict(module.manifest)
  companion = manifest["companion"]
  software = (module.software if isinstance(module, hub_module.Payload) else {})
  return {
      "schema_version": SCHEMA_VERSION,
      **manifest,
      "companion": f"{publisher}/{companion}" if companion else None,
      "labels": None,
      "software": {"regnety_hub": hub_export.__version__,
                   "tensorflow": tf.__version__, "numpy": np.__version__,
                   **software},
  }


def _commit(manifest: Mapping[str, Any], temporary: pathlib.Path,
            model_dir: pathlib.Path, publisher: str, force: bool) -> Written:
  """Gives the content in `temporary` its version, or finds that it has one."""
  with export_dirs.lock(model_dir):
    # Any version, not the newest alone: several checkpoints of one variant are
    # versions of one module, and to export them all again changes nothing.
    for found in reversed(export_dirs.versions(model_dir)) if not force else ():
      handle = export_dirs.Handle(publisher, model_dir.name, found)
      if _same(_manifest_bytes(manifest, handle), temporary,
               model_dir / str(found)):
        return Written(model_dir / str(found), is_new=False)
    version = _next_version(model_dir)
    handle = export_dirs.Handle(publisher, model_dir.name, version)
    _write(temporary / export_dirs.MANIFEST, _manifest_bytes(manifest, handle))
    for path in [temporary, *temporary.rglob("*")]:
      path.chmod(0o755 if path.is_dir() else 0o644)
      export_dirs.fsync(path)
    export_dir = model_dir / str(version)
    os.rename(temporary, export_dir)
    export_dirs.fsync(model_dir)
    return Written(export_dir, is_new=True)


def _manifest_bytes(manifest: Mapping[str, Any],
                    handle: export_dirs.Handle) -> bytes:
  """Returns the manifest's file, with the handle in it."""
  text = json.dumps({**manifest, "handle": str(handle)}, indent=2,
                    sort_keys=True, ensure_ascii=False)
  return (text + "\n").encode()


def _same(manifest: bytes, temporary: pathlib.Path,
          newest: pathlib.Path) -> bool:
  """Returns whether a version is, to the byte, this manifest and content."""
  try:
    listing = export_dirs.files(newest)
  except errors.HubExportError:
    return False  # A damaged version is no reason not to make a sound one.
  listing = [p for p in listing if p != export_dirs.MANIFEST]
  path = newest / export_dirs.MANIFEST
  return (path.is_file() and path.read_bytes() == manifest
          and listing == export_dirs.files(temporary)
          and all(export_dirs.file_sha256(temporary / p)
                  == export_dirs.file_sha256(newest / p) for p in listing))


def _next_version(model_dir: pathlib.Path) -> int:
  """Returns one more than any version that is, or that left a card, here."""
  numbers = [_VERSION.match(p.name) for p in model_dir.iterdir()]
  return 1 + max((int(m[0]) for m in numbers if m), default=0)


def _check_space(module: Module, model_dir: pathlib.Path) -> None:
  """Raises WriteError if the disk has less room than the export needs."""
  needed = _GRAPH_BYTES + (
      module.num_bytes if isinstance(module, hub_module.Payload) else sum(
          v.dtype.size * v.shape.num_elements() for v in module.root.variables))
  free = shutil.disk_usage(model_dir).free
  if free < needed:
    raise errors.WriteError(
        f"cannot write {model_dir}: {free / 1e6:.1f} MB are free there, "
        f"{needed / 1e6:.1f} MB are needed. Free some space or choose another "
        "directory with --output_dir.")


@contextlib.contextmanager
def _made(directory: pathlib.Path) -> Iterator[None]:
  """Makes a directory; if the block fails, unmakes what was made and empty."""
  new = []
  for path in [directory, *directory.parents]:
    if path.exists():
      break
    new.append(path)
  try:
    directory.mkdir(parents=True, exist_ok=True)
    yield
  except BaseException:
    for path in new:
      with contextlib.suppress(OSError):
        path.rmdir()  # Fails, rightly, where something is inside.
    raise


@contextlib.contextmanager
def _temporary(model_dir: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a locked temporary directory and removes what is left of it.

  Makes `model_dir` again if another writer that failed removed it while it was
  still empty (`_made`).
  """
  with contextlib.ExitStack() as stack:
    for attempt in range(_MAKE_ATTEMPTS):
      try:
        model_dir.mkdir(parents=True, exist_ok=True)
        # Else `clean` could take it before it is locked.
        with export_dirs.lock(model_dir):
          path = pathlib.Path(
              tempfile.mkdtemp(prefix=_TEMPORARY, dir=model_dir))
          stack.enter_context(export_dirs.lock(path))
        break
      except FileNotFoundError:
        if attempt == _MAKE_ATTEMPTS - 1:
          raise
    try:
      yield path
    finally:
      shutil.rmtree(path, ignore_errors=True)


def _write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file inside a temporary directory; `_commit` flushes it."""
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(content)
