"""Every document of the site by its address: one table for live and static."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from urllib import parse

from hub_export import export_dirs
from hub_export.site import api
from hub_export.site import hashes as hashes_lib
from hub_export.site import models as models_lib
from hub_export.site import pages

HTML = "text/html; charset=utf-8"
JSON = "application/json"
# Evaluations' pages bring their own policy; what it lets run has no rights.
EVALUATION_POLICY = "sandbox allow-scripts"


@dataclasses.dataclass(frozen=True)
class Document:
  """What is made in memory."""
  body: bytes
  media_type: str


class Site:
  """Makes documents of what is published just now."""

  def __init__(self, published: models_lib.Published):
    self.published = published
    self._hashes = hashes_lib.Hashes()

  def catalogue(self, place: pages.Place, query: pages.Query = pages.Query()
                ) -> Document:
    """Returns the page of all models."""
    return _html(pages.catalogue(place, self.published.models(), query,
                                 self.published.collections()))

  def publisher(self, place: pages.Place, publisher: str,
                query: pages.Query = pages.Query()) -> Document | None:
    """Returns the page of a publisher's models; None if there are none."""
    models = self.published.models()
    if all(m.handle.publisher != publisher for m in models):
      return None
    return _html(pages.publisher(place, models, publisher, query,
                                 self.published.collections()))

  def versions(self, place: pages.Place, publisher: str, name: str
               ) -> Document | None:
    """Returns the page of a model's versions; None if there are none."""
    models = self.published.models()
    if all((m.handle.publisher, m.handle.name) != (publisher, name)
           for m in models):
      return None
    return _html(pages.versions(place, models, publisher, name))

  def model(self, place: pages.Place, handle: export_dirs.Handle
            ) -> Document | None:
    """Returns the page of one version; None if it is not published."""
    entry = self.published.model(handle)
    if entry is None:
      return None
    side, inside = self._files(handle)
    return _html(pages.model(
        place, entry, self.published.card(handle), side, inside,
        [other.version for other in self.versions_of(handle)]))

  def collection(self, place: pages.Place, name: str) -> Document | None:
    """Returns the page of a collection; None if there is none of that name."""
    entry = self._collection(name)
    if entry is None:
      return None
    return _html(pages.collection(
        place, entry, models_lib.read_markdown(entry.path),
        self.published.models()))

  def collection_file(self, name: str, file_name: str
                      ) -> models_lib.SideFile | None:
    """Returns a collection's Markdown ("1.md") or one of its pictures."""
    entry = self._collection(name)
    if entry is None:
      return None
    return next((file for file in entry.files() if file.name == file_name),
                None)

  def _collection(self, name: str) -> models_lib.Collection | None:
    return next((c for c in self.published.collections() if c.name == name),
                None)

  def api_models(self, place: pages.Place) -> Document:
    """Returns the JSON list of all versions."""
    return Document(api.models(place, self.published.models()), JSON)

  def api_model(self, place: pages.Place, handle: export_dirs.Handle
                ) -> Document | None:
    """Returns the JSON of one version; None if it is not published."""
    entry = self.published.model(handle)
    if entry is None:
      return None
    return Document(api.model(place, entry, *self._files(handle)), JSON)

  def side_file(self, handle: export_dirs.Handle, name: str
                ) -> models_lib.SideFile | None:
    """Returns the published file of that name beside a module, if it is one.

    Args:
      handle: The module.
      name: Relative to the card's directory; only names that are listed are
        found, so no name leads anywhere else.
    """
    if self.published.model(handle) is None:
      return None
    for file in self.published.side_files(handle):
      if file.name == name:
        return file
    return None

  def is_altered(self, handle: export_dirs.Handle, file: models_lib.SideFile
                 ) -> bool:
    """Returns whether a file beside a module is not what SHA256SUMS lists."""
    with contextlib.suppress(OSError):  # Renewed just now; sending tells.
      return self._version_hashes(
          handle, self.published.side_files(handle)).is_as_listed(
              file.name, file.path) is False
    return False

  def versions_of(self, handle: export_dirs.Handle
                  ) -> list[export_dirs.Handle]:
    """Returns all published versions of the model, the newest first."""
    model_dir = self.published.root / handle.publisher / handle.name
    found = [dataclasses.replace(handle, version=version)
             for version in reversed(export_dirs.versions(model_dir))]
    return [other for other in found
            if self.published.model(other) is not None]

  def _files(self, handle: export_dirs.Handle
             ) -> tuple[list[pages.File], list[pages.File]]:
    """Returns the files beside a module, and those in it."""
    side = self.published.side_files(handle)
    version = str(handle.version)
    hashes = self._version_hashes(handle, side)
    beside, inside = [], []
    for file in side:
      with contextlib.suppress(FileNotFoundError):  # Renewed just now.
        beside.append(_file(hashes, file.name, file.name, file.path,
                            file.what, parse.quote(file.name)))
    for name, path in self.published.module_files(handle):
      with contextlib.suppress(FileNotFoundError):
        inside.append(_file(hashes, f"{version}/{name}", name, path))
    return beside, inside

  def _version_hashes(self, handle: export_dirs.Handle,
                      side: Sequence[models_lib.SideFile]
                      ) -> hashes_lib.VersionHashes:
    sums = next((file.path for file in side
                 if file.name == f"{handle.version}.SHA256SUMS"), None)
    return hashes_lib.VersionHashes(self._hashes, sums)


def documents(site: Site, place: pages.Place
              ) -> Iterator[tuple[str, Document]]:
  """Yields (path below the top, document) of all pages and JSON.

  Models come first and what lists them last: who writes them one after the
  other never lists what is not there.
  """
  models = site.published.models()
  for name, (content, media_type) in pages.assets().items():
    yield f"_site/{name}", Document(content, media_type)
  for model in models:
    # One that is taken away meanwhile is left out.
    if page := site.model(place, model.handle):
      yield f"{model.handle}.html", page
    if document := site.api_model(place, model.handle):
      yield f"api/v1/models/{model.handle}.json", document
  for publisher, name in dict.fromkeys(
      (m.handle.publisher, m.handle.name) for m in models):
    if page := site.versions(place, publisher, name):
      yield f"{publisher}/{name}/index.html", page
  for collection in site.published.collections():
    if page := site.collection(place, collection.name):
      yield f"{collection.name}.html", page
  for publisher in dict.fromkeys(m.handle.publisher for m in models):
    if page := site.publisher(place, publisher):
      yield f"{publisher}/index.html", page
  yield "404.html", _html(pages.message(
      place, "Not found", "There is no such page; expected one that the "
      "catalogue links to."))
  yield "api/v1/models.json", site.api_models(place)
  yield "index.html", site.catalogue(place)


def _file(hashes: hashes_lib.VersionHashes, listed_name: str, name: str,
          path: pathlib.Path, what: str = "", link: str = "") -> pages.File:
  return pages.File(name, os.stat(path).st_size, hashes.sha256(path),
                    hashes.is_as_listed(listed_name, path), what, link)


def _html(text: str) -> Document:
  return Document(text.encode(), HTML)
