"""The site as plain files, for nginx or a bucket.

    <static_dir>/index.html                              the catalogue
    <static_dir>/<publisher>/<name>/<version>.html       a model's page
    <static_dir>/<publisher>/<name>/<version>.tar.gz ... its files
    <static_dir>/<publisher>/collections/<family>/1.html a collection's
    <static_dir>/api/v1/models.json                      the same as JSON

Files appear whole, what they link to before them. A second run writes only
what has changed, and takes away only what an earlier run had written.
"""

import dataclasses
import filecmp
import os
import pathlib
import shutil

from hub_export import errors
from hub_export import export_dirs
from hub_export.site import models as models_lib
from hub_export.site import pages
from hub_export.site import site as site_lib

# The names of all that was written, in the site's own directory.
_LIST = ".site_files"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What `write` did."""
  written: int
  unchanged: int
  removed: int


def write(published: models_lib.Published, static_dir: pathlib.Path,
          base_url: str) -> Outcome:
  """Writes the site into a directory of its own.

  Args:
    published: What to show.
    static_dir: A new or empty directory, or one with a site made earlier.
    base_url: The address that the site will have, without a slash at its end.

  Raises:
    UsageError: if there is something else in `static_dir`.
    WriteError: if it cannot be written; the next run goes on.
    HubExportError: if a published file cannot be read.
  """
  earlier = _earlier(published, static_dir)
  site = site_lib.Site(published)
  _check_unaltered(site)
  documents = dict(site_lib.documents(
      site, pages.Place(base_url, is_static=True)))
  # After the pages: whatever those show is there, and perhaps more.
  files = {f"{m.handle.publisher}/{m.handle.name}/{file.name}": file.path
           for m in published.models()
           for file in published.side_files(m.handle)}
  files |= {f"{c.name.rpartition('/')[0]}/{file.name}": file.path
            for c in published.collections() for file in c.files()}
  names = {*files, *documents}
  with export_dirs.write_errors(static_dir):
    static_dir.mkdir(parents=True, exist_ok=True)
    _note(static_dir, earlier | names)
    written = sum(_copy(path, static_dir / name)
                  for name, path in files.items())
    written += sum(_write(static_dir / name, document.body)
                   for name, document in documents.items())
    removed = _remove(static_dir, earlier - names)
    _note(static_dir, names)
  return Outcome(written, len(names) - written, removed)


def _check_unaltered(site: site_lib.Site) -> None:
  """Raises HubExportError if a file is not what its SHA256SUMS says."""
  altered = [f"{m.handle.publisher}/{m.handle.name}/{file.name}"
             for m in site.published.models()
             for file in site.published.side_files(m.handle)
             if site.is_altered(m.handle, file)]
  if altered:
    raise errors.HubExportError(errors.join_problems(
        "these files do not match their version's SHA256SUMS", altered,
        "Publish them again; the site was left as it is."))


def _earlier(published: models_lib.Published, static_dir: pathlib.Path
             ) -> set[str]:
  """Returns the names that earlier runs wrote.

  Raises:
    UsageError: if the directory is not the site's own.
  """
  root, target = (pathlib.Path(os.path.realpath(path))
                  for path in (published.root, static_dir))
  if target.is_relative_to(root) or root.is_relative_to(target):
    raise errors.UsageError(
        f"--static_dir={static_dir} and --root={published.root} lie in each "
        "other; expected two directories apart")
  try:
    names = os.listdir(static_dir)
    if _LIST in names:
      return set((static_dir / _LIST).read_text("utf-8").splitlines())
  except FileNotFoundError:
    return set()
  except (OSError, ValueError) as e:
    raise errors.HubExportError(
        f"{static_dir} cannot be read ({e}); expected a directory. Choose "
        "another --static_dir.") from e
  if names:
    raise errors.UsageError(
        f"--static_dir={static_dir} holds files that are of no site, such as "
        f"{sorted(names)[0]}; expected a new or empty directory, or a site "
        "made earlier")
  return set()


def _note(static_dir: pathlib.Path, names: set[str]) -> None:
  """Writes down what the site has, before it does."""
  _write(static_dir / _LIST, "".join(f"{n}\n" for n in sorted(names)).encode())


def _write(path: pathlib.Path, content: bytes) -> bool:
  """Writes a file unless it has this content; returns whether it did."""
  try:
    if path.read_bytes() == content:
      return False
  except FileNotFoundError:
    pass
  export_dirs.write_file(path, content)
  return True


def _copy(source: pathlib.Path, target: pathlib.Path) -> bool:
  """Copies a file unless it is there already; returns whether it did."""
  try:
    f = open(source, "rb")
  except OSError as e:
    raise errors.HubExportError(
        f"{source} cannot be read ({e.strerror}); expected a published file. "
        "Make it readable, or run again if it was just renewed.") from e
  with f:
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
      return False
    with export_dirs.open_whole(target) as copy:
      shutil.copyfileobj(f, copy, 1 << 20)
  return True


def _remove(static_dir: pathlib.Path, names: set[str]) -> int:
  """Removes files of earlier runs, and directories that are empty then."""
  removed = 0
  for name in sorted(names):
    # The list may have been edited: nothing outside is touched.
    if ".." in pathlib.PurePosixPath(name).parts or name.startswith("/"):
      continue
    path = static_dir / name
    if path.is_file():
      path.unlink()
      removed += 1
    for parent in path.parents:
      if parent == static_dir or not parent.is_dir() or any(parent.iterdir()):
        break
      parent.rmdir()
  return removed
