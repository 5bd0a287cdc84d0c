"""What is published, as records that pages and JSON are made of.

A model is listed if it is published whole. What its manifest or report does
not say, or says in a form that is not expected, is unknown here (None): no
strange file takes a page away.

Nothing here imports TensorFlow.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export.destinations import directory
from hub_export.site import cards

_MARKDOWN_TYPE = "text/markdown; charset=utf-8"
_PICTURE_TYPE = "image/png"
# Beside a module, by how their names end, with what they are. Those that a
# version lacks are not shown.
SIDE_FILES = (
    (".tar.gz", "archive", "application/gzip"),
    (".md", "card", _MARKDOWN_TYPE),
    (".checks.json", "report of the checks", "application/json"),
    (".SHA256SUMS", "checksums", "text/plain; charset=utf-8"),
    (".SHA256SUMS.sig", "signature of the checksums", "application/json"),
    (".intoto.json", "provenance statement", "application/json"),
    (".sig", "signature of the module", "application/json"),
)
_OWN_TYPES = {".json": "application/json"}  # Others are bytes.
_EVALUATION_TYPES = {
    ".png": _PICTURE_TYPE, ".svg": "image/svg+xml",
    ".html": "text/html; charset=utf-8"}
_FAMILY = re.compile(r"[a-z0-9][a-z0-9._-]*")
# What no count is: some would not even fit into a float.
_COUNTS = range(10**15)
_MAX_JSON_BYTES = 64 << 20  # Reports take kilobytes.


@dataclasses.dataclass(frozen=True)
class SideFile:
  """A file that is published beside a module, or to be had out of it."""
  name: str        # Relative to the card's directory, such as "1.tar.gz".
  path: pathlib.Path
  what: str        # For people.
  media_type: str


@dataclasses.dataclass(frozen=True)
class Collection:
  """A publisher's page about all models of a family."""
  publisher: str
  family: str
  path: pathlib.Path               # Of its Markdown.
  pictures: tuple[SideFile, ...]   # Named as the page links to them.

  @property
  def name(self) -> str:
    """Where it is: <publisher>/collections/<family>/1, as on TF Hub."""
    return f"{self.publisher}/collections/{self.family}/1"

  def files(self) -> tuple[SideFile, ...]:
    """Returns its Markdown and its pictures."""
    return (SideFile(self.path.name, self.path, "collection", _MARKDOWN_TYPE),
            *self.pictures)


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """A top-1 or top-5 in percent."""
  value: float
  low: float | None    # Of the 95 % interval, in percent.
  high: float | None
  is_measured: bool    # By the checks; otherwise reported by the source.


@dataclasses.dataclass(frozen=True)
class Model:
  """One published version. None stands for what is not known."""
  handle: export_dirs.Handle
  title: str
  description: str
  kind: str | None           # "classifier" or "feature_extractor".
  family: str | None
  variant: str | None
  form: str | None
  is_demo: bool
  dataset: str | None        # Name, as TFDS spells it.
  dataset_title: str | None
  licence: str | None        # Id.
  parameters: int | None     # Trainable ones.
  multiply_adds: int | None  # Per image of image_size_px.
  image_size_px: int | None
  num_outputs: int | None    # Classes or features.
  top1: Accuracy | None
  top5: Accuracy | None
  status: str | None         # Of the report.
  checked: str | None        # When, UTC.
  archive_bytes: int

  @property
  def file(self) -> str | None:
    """What is loaded of it, by its address; None where hub.load takes all."""
    form = forms.find(self.form)
    return None if form is None or form.is_saved_model else form.marker


class Published:
  """The models below one directory, read afresh where files changed."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    self._directory = directory.Directory(root)
    self._known: dict[export_dirs.Handle, tuple[tuple, Model]] = {}

  def models(self) -> list[Model]:
    """Returns all models: by publisher, family and size, versions descending.
    """
    found = []
    for handle in self._directory.handles():
      try:
        found.append(self.model(handle))
      except Exception:  # One that is strange hides none of the others.
        logging.getLogger(__name__).exception("%s is left out", handle)
    return sorted(filter(None, found), key=_order)

  def model(self, handle: export_dirs.Handle) -> Model | None:
    """Returns the model published as `handle`, None if there is none."""
    if not self._directory.exists(handle):
      return None
    module_dir = self._directory.module_dir(handle)
    archive_path = self._directory.archive_path(handle)
    report_path = self._directory.report_path(handle)
    card_path = self._directory.card_path(handle)
    if not all(map(self._is_inside, (
        module_dir, archive_path, card_path, report_path))):
      return None
    try:
      stamps = tuple(
          (s.st_mtime_ns, s.st_size, s.st_ino) for s in map(os.stat, (
              module_dir, archive_path, report_path)))
      known = self._known.get(handle)
      if known is None or known[0] != stamps:
        known = (stamps, _model(
            handle, _read_json(module_dir / export_dirs.MANIFEST),
            _read_json(report_path), stamps[1][1]))
        self._known[handle] = known
      return known[1]
    except FileNotFoundError:  # Being taken away.
      return None

  def card(self, handle: export_dirs.Handle) -> str:
    """Returns the card's Markdown, or as much of it as is ever shown.

    Raises:
      OSError: if it cannot be read.
    """
    return read_markdown(self._directory.card_path(handle))

  def collections(self) -> list[Collection]:
    """Returns the collections of publishers that have models, sorted."""
    publishers = {handle.publisher for handle in self._directory.handles()}
    found = []
    for path in sorted(self.root.glob("*/collections/*/1.md")):
      publisher, _, family, _ = path.relative_to(self.root).parts
      if (publisher in publishers and _FAMILY.fullmatch(family)
          and self._is_file_inside(path)):
        pictures = filter(lambda file: self._is_file_inside(file.path), (
            SideFile(picture.name, picture, "picture of the collection",
                     _PICTURE_TYPE)
            for picture in sorted(path.parent.glob("1.*.png"))))
        found.append(Collection(publisher, family, path, tuple(pictures)))
    return found

  def side_files(self, handle: export_dirs.Handle) -> list[SideFile]:
    """Returns the files beside a published module, the archive first.

    With them the module's own, where those are loaded one by one.
    """
    module_dir = self._directory.module_dir(handle)
    found = []
    for suffix, what, media_type in SIDE_FILES:
      path = module_dir.with_name(module_dir.name + suffix)
      found.append(SideFile(path.name, path, what, media_type))
    found += self._own_files(handle)
    for path in self._directory.attachment_paths(handle):
      media_type = _EVALUATION_TYPES.get(path.suffix)
      if media_type is not None and path.name.isprintable():
        what = ("page of the evaluation" if path.suffix == ".html"
                else "picture of the evaluation")
        found.append(SideFile(f"{path.parent.name}/{path.name}", path, what,
                              media_type))
    return [file for file in found if self._is_file_inside(file.path)]

  def _own_files(self, handle: export_dirs.Handle) -> list[SideFile]:
    """Returns what lies at the top of a module that is no SavedModel."""
    model = self.model(handle)
    if model is None or model.file is None:
      return []
    return [
        SideFile(f"{handle.version}/{name}", path, "model",
                 _OWN_TYPES.get(path.suffix, "application/octet-stream"))
        for name, path in self.module_files(handle)
        if "/" not in name and name.isprintable()]

  def module_files(self, handle: export_dirs.Handle
                   ) -> list[tuple[str, pathlib.Path]]:
    """Returns (relative path, place) of the module's own files."""
    module_dir = self._directory.module_dir(handle)
    try:
      return [(str(name), module_dir / name)
              for name in export_dirs.files(module_dir)]
    except errors.HubExportError:  # Somebody put something else in there.
      return []

  def _is_file_inside(self, path: pathlib.Path) -> bool:
    return os.path.isfile(path) and self._is_inside(path)

  def _is_inside(self, path: pathlib.Path) -> bool:
    """Whether no link on the way leads out of the directory."""
    return pathlib.Path(os.path.realpath(path)).is_relative_to(
        os.path.realpath(self.root))


def read_markdown(path: pathlib.Path) -> str:
  """Returns a card's text, or as much of it as is ever shown.

  Raises:
    OSError: if it cannot be read.
  """
  with open(path, encoding="utf-8", errors="replace") as f:
    return f.read(cards.MOST_CHARACTERS + 1)


def newest(models: Sequence[Model]) -> list[tuple[Model, int]]:
  """Returns the newest version of each model, with how many there are."""
  found: dict[tuple[str, str], tuple[Model, int]] = {}
  for model in models:
    key = (model.handle.publisher, model.handle.name)
    best, count = found.get(key, (model, 0))
    if model.handle.version > best.handle.version:
      best = model
    found[key] = (best, count + 1)
  return list(found.values())


def _order(model: Model) -> tuple:
  handle = model.handle
  return (handle.publisher, model.family or "", model.multiply_adds or 0,
          handle.name, -handle.version)


def _model(handle: export_dirs.Handle, manifest: Any, report: Any,
           archive_bytes: int) -> Model:
  """Returns the record of what manifest and report say."""
  kind = _get(manifest, str, "kind")
  outputs = ("num_classes", "feature_dim")[kind == "feature_extractor"]
  return Model(
      handle=handle,
      title=_get(manifest, str, "card", "title") or handle.name,
      description=_get(manifest, str, "card", "description") or "",
      kind=kind,
      family=_get(manifest, str, "family"),
      variant=_get(manifest, str, "variant"),
      form=_get(manifest, str, "form"),
      is_demo=bool(_get(manifest, bool, "is_demo")),
      dataset=_get(manifest, str, "dataset", "name"),
      dataset_title=_get(manifest, str, "dataset", "title"),
      licence=_get(manifest, str, "licence", "id"),
      parameters=_get(manifest, int, "parameters", "trainable"),
      multiply_adds=_get(manifest, int, "multiply_adds", "count"),
      image_size_px=_get(manifest, int, "multiply_adds", "image_size_px"),
      num_outputs=_get(manifest, int, "outputs", outputs),
      top1=_accuracy(manifest, report, "top1"),
      top5=_accuracy(manifest, report, "top5"),
      status=_get(report, str, "status"),
      checked=_get(report, str, "started"),
      archive_bytes=archive_bytes)


def _accuracy(manifest: Any, report: Any, name: str) -> Accuracy | None:
  """Returns what was measured, or else what was reported."""
  measured = _number(report, "metrics", name, "value")
  if measured is not None:
    return Accuracy(measured, _number(report, "metrics", name, "low"),
                    _number(report, "metrics", name, "high"), True)
  reported = _number(manifest, "reported_accuracy", name)
  return None if reported is None else Accuracy(reported, None, None, False)


def _number(tree: Any, *keys: str) -> float | None:
  value = _get(tree, (int, float), *keys)
  # Not a number that pages can show: NaN and infinities, which Python reads.
  return float(value) if value is not None and abs(value) < 1e15 else None


def _get(tree: Any, kind: type | tuple[type, ...], *keys: str) -> Any:
  """Returns what lies at `keys` if it is of that type, None otherwise."""
  for key in keys:
    if not isinstance(tree, Mapping):
      return None
    tree = tree.get(key)
  if isinstance(tree, bool) and kind is not bool:
    return None
  if isinstance(tree, int) and tree not in _COUNTS:
    return None
  return tree if isinstance(tree, kind) else None


def _read_json(path: pathlib.Path) -> Any:
  """Returns what a JSON file holds; None if it is damaged, huge or gone."""
  with contextlib.suppress(OSError, ValueError, RecursionError):
    if path.stat().st_size <= _MAX_JSON_BYTES:
      return json.loads(path.read_bytes())
  return None
