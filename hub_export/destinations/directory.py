"""Publishing to a directory: for `serve`, TF Serving or any static web server.

Below <root>/<publisher>/<name>/ lies what `layout` lists.

A version is published when its directory is there: that rename comes last. All
is made in `.publishing-<version>` beside it and read back before. While that
directory exists something was left unfinished, and whoever publishes next to it
first takes away what belongs to an unpublished version.
"""

import contextlib
import fcntl
import os
import pathlib
import shlex
import shutil
from collections.abc import Iterator

from absl import logging

from hub_export import archive
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import program
from hub_export import releases
from hub_export.destinations import base
from hub_export.destinations import layout

_LOCK = ".publish.lock"
_STAGING_PREFIX = ".publishing-"
_SIDE_SUFFIXES = (layout.ARCHIVE_SUFFIX, *layout.DOCUMENT_SUFFIXES)
# Each failed attempt means that another publisher has just tidied up.
_LOCK_ATTEMPTS = 1000


def from_path(to: str) -> "Directory":
  """Returns the destination at a path as the user typed it."""
  return Directory(program.user_path(to))


class Directory:
  """A `base.Destination` below one directory."""

  is_remote = False

  def __init__(self, root: pathlib.Path):
    self.root = root

  def module_dir(self, handle: export_dirs.Handle) -> pathlib.Path:
    """Returns where the module's files lie once it is published."""
    return (self.root / handle.publisher / handle.name / str(handle.version))

  def archive_path(self, handle: export_dirs.Handle) -> pathlib.Path:
    """Returns where the archive lies once it is published."""
    module_dir = self.module_dir(handle)
    return module_dir.with_name(module_dir.name + layout.ARCHIVE_SUFFIX)

  def card_path(self, handle: export_dirs.Handle) -> pathlib.Path:
    """Returns where the card lies once it is published."""
    return export_dirs.card_path(self.module_dir(handle))

  def report_path(self, handle: export_dirs.Handle) -> pathlib.Path:
    """Returns where the report lies once it is published."""
    return export_dirs.report_path(self.module_dir(handle))

  def attachment_paths(self, handle: export_dirs.Handle
                       ) -> list[pathlib.Path]:
    """Returns the pictures and pages that cards link to, sorted."""
    suffixes = (*export_dirs.PICTURE_SUFFIXES, export_dirs.PAGE_SUFFIX)
    return sorted(path for path in _evaluations(
        self.module_dir(handle)).glob("*") if path.name.endswith(suffixes))

  def handles(self) -> list[export_dirs.Handle]:
    """Returns what is published here, sorted."""
    found = []
    for module_dir in self.root.glob("*/*/*"):
      text = module_dir.relative_to(self.root).as_posix()
      with contextlib.suppress(errors.HubExportError):
        handle = export_dirs.parse_handle(text)
        if self.exists(handle):
          found.append(handle)
    return sorted(found, key=lambda h: (h.publisher, h.name, h.version))

  def exists(self, handle: export_dirs.Handle) -> bool:
    """Returns whether `handle` is published here, with all its parts."""
    return os.path.isdir(self.module_dir(handle)) and all(
        os.path.isfile(path) for path in (
            self.archive_path(handle), self.card_path(handle),
            self.report_path(handle)))

  def plan(self, release: releases.Release) -> base.Plan:
    """As `base.Destination.plan`."""
    final = self.module_dir(release.handle)
    _check_apart(self.root, final, release.export_dir)
    with export_dirs.write_errors(final), layout.parts(release) as parts:
      sizes = {final.parent / p.name: p.bytes for p in parts}
      if not os.path.lexists(final):
        return base.Plan(base.Outcome.PUBLISHED,
                         tuple((str(p), size) for p, size in sizes.items()),
                         others=self._pages(release))
      self._verify_module(release)
      self._check_signature(release)
      renewed, stale = self._renewed(release), self._stale(release)
    return base.Plan(
        base.Outcome.RENEWED if renewed or stale else base.Outcome.UNCHANGED,
        tuple((str(path), sizes[path]) for path in renewed),
        tuple(map(str, stale)), self._pages(release))

  def put(self, release: releases.Release) -> base.Outcome:
    """As `base.Destination.put`."""
    final = self.module_dir(release.handle)
    _check_apart(self.root, final, release.export_dir)
    with export_dirs.write_errors(final), _locked(final.parent):
      _clean_up(final.parent)
      try:
        if os.path.lexists(final):
          return self._renew(release)
        self._publish(release)
        return base.Outcome.PUBLISHED
      finally:
        _clean_up(final.parent)

  def verify(self, release: releases.Release) -> None:
    """As `base.Destination.verify`."""
    final = self.module_dir(release.handle)
    self._verify_module(release)
    problems = [
        f"{path} {'differs' if path.is_file() else 'is missing'}"
        for path, content in self._documents(release)
        if not path.is_file() or path.read_bytes() != content]
    problems += [f"{path} does not belong there"
                 for path in self._stale(release)]
    path = self.archive_path(release.handle)
    if not path.is_file():
      problems.append(f"{path} is missing")
    elif not self._is_as_listed(release):
      problems.append(f"{path} differs")
    if problems:
      raise errors.HubExportError(errors.join_problems(
          f"{release.handle} is damaged in {self.root}", problems,
          "Publish it again."))
    archive.verify(self.archive_path(release.handle), final)

  def write_pages(self, release: releases.Release) -> list[tuple[str, str]]:
    """As `base.Destination.write_pages`: the publisher's collection.

    That is <root>/<publisher>/collections/<family>/1.md, with its pictures.
    """
    from model_cards import render  # Reading does not need it.
    path = render.write_collection(
        self.module_dir(release.handle).absolute(), release.manifest)
    return [("collection", str(path))]

  def _pages(self, release: releases.Release) -> tuple[str, ...]:
    """Returns what `write_pages` writes, where it is not so already."""
    from model_cards import render  # Reading does not need it.
    collection, publisher = render.pages(
        self.module_dir(release.handle).absolute(), release.manifest)
    return (f"{collection} and its pictures", str(publisher))

  def describe(self, handle: export_dirs.Handle) -> list[tuple[str, str]]:
    """As `base.Destination.describe`."""
    return [("module", f"{self.module_dir(handle)}{os.sep}"),
            ("archive", str(self.archive_path(handle))),
            ("card", str(self.card_path(handle))),
            ("report", str(self.report_path(handle)))]

  def next_steps(self, handle: export_dirs.Handle, form: forms.Form
                 ) -> list[str]:
    """As `base.Destination.next_steps`."""
    serve = program.command("//hub_export:serve")
    return [f"{serve} --root={shlex.quote(str(program.shown_path(self.root)))}",
            form.load.format(url=f"http://localhost:8080/{handle}")]

  def _documents(self, release: releases.Release
                 ) -> list[tuple[pathlib.Path, bytes]]:
    """Returns path and content of all but module and archive, card last.

    So a card never links to what is not there yet.
    """
    parent = self.module_dir(release.handle).parent
    return [(parent / name, content) for name, content in release.documents]

  def _stale(self, release: releases.Release) -> list[pathlib.Path]:
    """Returns the documents of earlier, which this release does not have."""
    final = self.module_dir(release.handle)
    present = [*final.parent.glob(f"{final.name}.*"),
               *_evaluations(final).glob("**/*")]
    names = [path.relative_to(final.parent).as_posix()
             for path in present if path.is_file()]
    return [final.parent / name for name in layout.stale(names, release)]

  def _renewed(self, release: releases.Release) -> list[pathlib.Path]:
    """Returns the documents that differ, and the archive if it is damaged."""
    paths = [path for path, content in self._documents(release)
             if not path.is_file() or path.read_bytes() != content]
    archive_path = self.archive_path(release.handle)
    if not (self._is_as_listed(release)
            and _is_sound(archive_path, self.module_dir(release.handle))):
      paths.append(archive_path)
    return paths

  def _is_as_listed(self, release: releases.Release) -> bool:
    """Whether the archive is what the sums beside it say, if there are any."""
    path = self.archive_path(release.handle)
    expected = layout.archive_sha256(release)
    return not expected or (
        path.is_file() and export_dirs.file_sha256(path) == expected)

  def _check_signature(self, release: releases.Release) -> None:
    """As `layout.check_signature`."""
    path = self.module_dir(release.handle).with_name(
        f"{release.handle.version}{layout.SIGNATURE_SUFFIX}")
    if path.is_file():
      layout.check_signature(path.read_bytes(), release)

  def _verify_module(self, release: releases.Release) -> None:
    final = self.module_dir(release.handle)
    found = export_dirs.digest(final)
    if found != release.export_sha256:
      raise errors.HubExportError(base.taken(str(final), found, release))

  def _publish(self, release: releases.Release) -> None:
    """Stages everything, reads it back, renames; the directory comes last."""
    final = self.module_dir(release.handle)
    staging = _make_staging(final)
    staged = staging / final.name
    _copy(release.export_dir, staged)
    archive.write(staging / self.archive_path(release.handle).name, staged)
    documents = self._documents(release)
    for path, content in documents:
      _write(staging / path.relative_to(final.parent), content)
    found = export_dirs.digest(staged)
    if found != release.export_sha256:
      raise errors.WriteError(
          f"the copy of {release.export_dir} has sha256 {found}; expected "
          f"{release.export_sha256}. Either the export is being changed, or "
          "the disk is failing: look into that, then publish again.")
    archive.verify(staging / self.archive_path(release.handle).name, staged)
    # The archive can be loaded by itself, so it comes right before the module.
    for path in (*(path for path, _ in documents),
                 self.archive_path(release.handle)):
      _move(staging, path, final)
    export_dirs.fsync(final.parent)
    os.rename(staged, final)
    export_dirs.fsync(final.parent)

  def _renew(self, release: releases.Release) -> base.Outcome:
    """Replaces what differs of card, report and attachments.

    The module may not differ.

    An archive that is missing or damaged is made again of the module, which
    gives the same bytes.
    """
    final = self.module_dir(release.handle)
    self._verify_module(release)
    self._check_signature(release)
    renewed, stale = self._renewed(release), self._stale(release)
    if not renewed and not stale:
      return base.Outcome.UNCHANGED
    archive_path = self.archive_path(release.handle)
    staging = _make_staging(final)
    for path, content in self._documents(release):
      if path in renewed:
        _write(staging / path.relative_to(final.parent), content)
    if archive_path in renewed:
      archive.write(staging / archive_path.name, final)
      archive.verify(staging / archive_path.name, final)
    for path in renewed:
      _move(staging, path, final)
    for path in stale:  # Nothing links to them any longer.
      path.unlink()
    if stale:
      with contextlib.suppress(OSError):  # Unless others are in it.
        _evaluations(final).rmdir()
    export_dirs.fsync(final.parent)
    return base.Outcome.RENEWED


def _evaluations(module_dir: pathlib.Path) -> pathlib.Path:
  return module_dir.with_name(
      module_dir.name + export_dirs.EVALUATIONS_SUFFIX)


def _write(path: pathlib.Path, content: bytes) -> None:
  """Writes a staged file, in a directory that everybody may read."""
  if not path.parent.is_dir():
    path.parent.mkdir(mode=0o755)
    path.parent.chmod(0o755)  # Whatever the umask says.
  export_dirs.write_file(path, content)


def _move(staging: pathlib.Path, path: pathlib.Path,
          final: pathlib.Path) -> None:
  """Moves a staged file to where it is published, beside `final`."""
  if path.parent != final.parent and not path.parent.is_dir():
    path.parent.mkdir(mode=0o755)
    path.parent.chmod(0o755)
  os.replace(staging / path.relative_to(final.parent), path)
  if path.parent != final.parent:
    export_dirs.fsync(path.parent)


def _is_sound(archive_path: pathlib.Path, module_dir: pathlib.Path) -> bool:
  try:
    archive.verify(archive_path, module_dir)
    return True
  except errors.HubExportError:  # Missing, too.
    return False


def _check_apart(root: pathlib.Path, final: pathlib.Path,
                 export_dir: pathlib.Path) -> None:
  """Raises UsageError if publishing would write into the export itself."""
  # Path.resolve would raise where links go round in a circle.
  source = os.path.realpath(export_dir)
  if (os.path.realpath(final) == source
      or pathlib.Path(os.path.realpath(root)).is_relative_to(source)):
    raise errors.UsageError(
        f"--to={root} is where the export lies; expected another directory, "
        "such as --to=published")


def _make_staging(final: pathlib.Path) -> pathlib.Path:
  staging = final.with_name(_STAGING_PREFIX + final.name)
  staging.mkdir()
  # Lasts before anything that it tells the next run to take away.
  export_dirs.fsync(final.parent)
  return staging


def _clean_up(model_dir: pathlib.Path) -> None:
  """Takes away what an unfinished `put` left in `model_dir`; needs the lock."""
  for staging in model_dir.glob(_STAGING_PREFIX + "*"):
    final = model_dir / staging.name.removeprefix(_STAGING_PREFIX)
    if not os.path.lexists(final):
      for suffix in _SIDE_SUFFIXES:
        model_dir.joinpath(final.name + suffix).unlink(missing_ok=True)
      if _evaluations(final).is_dir():
        shutil.rmtree(_evaluations(final))
      export_dirs.fsync(model_dir)
    # Last: as long as it stands, the next run knows that there is work.
    shutil.rmtree(staging)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies files and directories, readable for everybody, to last."""
  directories = [path.relative_to(source)
                 for path in sorted(source.rglob("*")) if path.is_dir()]
  for directory in [pathlib.Path(), *directories]:
    target.joinpath(directory).mkdir(mode=0o755)
    target.joinpath(directory).chmod(0o755)  # Whatever the umask says.
  for name in export_dirs.files(source):
    shutil.copyfile(source / name, target / name)
    target.joinpath(name).chmod(0o644)
    export_dirs.fsync(target / name)
  for directory in [pathlib.Path(), *directories]:
    export_dirs.fsync(target / directory)


@contextlib.contextmanager
def _locked(model_dir: pathlib.Path) -> Iterator[None]:
  """Makes `model_dir` if need be and holds its lock; waits for others.

  The kernel lets go of the lock when its holder dies. Directories that were
  made here and are empty in the end are taken away again.
  """
  ancestors = [model_dir, *model_dir.parents]
  made = [path for path in ancestors if not path.exists()]
  lock = model_dir / _LOCK
  try:
    fd = _acquire(lock)
    try:
      for path in made:
        export_dirs.fsync(path.parent)
      yield
    finally:
      lock.unlink()  # While it is held, so that nobody else's goes.
      os.close(fd)
  finally:
    for path in made:
      with contextlib.suppress(OSError):  # Where something was published.
        path.rmdir()


def _wait_for(fd: int, lock: pathlib.Path) -> None:
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    logging.warning("waiting for another publisher to leave %s", lock.parent)
    fcntl.flock(fd, fcntl.LOCK_EX)


def _acquire(lock: pathlib.Path) -> int:
  """Returns a descriptor that holds the lock on the file `lock`."""
  for attempt in range(_LOCK_ATTEMPTS):
    try:
      lock.parent.mkdir(parents=True, exist_ok=True)
      fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:  # Another publisher just removed a directory.
      if attempt == _LOCK_ATTEMPTS - 1:
        raise
      continue
    try:
      _wait_for(fd, lock)
      # The holder before removed its file: what was locked here may be gone.
      if lock.exists() and os.path.samestat(os.fstat(fd), lock.stat()):
        return fd
    except FileNotFoundError:
      pass
    except BaseException:
      os.close(fd)
      raise
    os.close(fd)
  raise errors.WriteError(
      f"cannot lock {lock}: other publishers keep coming first; expected a "
      "turn. Publish again when they are done.")
