"""The site's pages as HTML: functions of what is published and of an address.

Links between pages are relative, so the same pages work below any address, and
written out as files. `root` is the way from a page to the site's top.
"""

import dataclasses
import functools
import hashlib
import pathlib
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from urllib import parse

import jinja2
import markupsafe

from hub_export import export_dirs
from hub_export.site import cards
from hub_export.site import formats
from hub_export.site import models as models_lib
from hub_export.site import search
from hub_export.site import snippets

_HERE = pathlib.Path(__file__).parent
_ASSETS_DIR = _HERE / "assets"
# No script, style or picture but the site's own, and no page around it.
POLICY = ("default-src 'none'; style-src 'self'; script-src 'self'; "
          "img-src 'self'; form-action 'self'; base-uri 'none'")
# No card can know them, so what it says is not taken for one.
_BASE_MARK, _LOAD_MARK = secrets.token_hex(16), secrets.token_hex(16)
_ASSET_TYPES = {".css": "text/css; charset=utf-8",
                ".js": "text/javascript; charset=utf-8",
                ".svg": "image/svg+xml"}


@dataclasses.dataclass(frozen=True)
class Query:
  """What a visitor asks of a catalogue."""
  text: str = ""
  kind: str = ""    # One of search.KINDS, or "" for all.
  order: str = ""   # One of search.ORDERS, or "" for the catalogue's own.


@dataclasses.dataclass(frozen=True)
class File:
  """A line of a page's table of files."""
  name: str
  bytes: int
  sha256: str
  is_as_listed: bool | None = None  # In SHA256SUMS; None if it is not there.
  what: str = ""
  link: str = ""    # Relative to the page; "" if it is not offered by itself.


@dataclasses.dataclass(frozen=True)
class Place:
  """Where the site is, and how its pages link to each other."""
  base_url: str     # What users type, without a slash at its end.
  is_static: bool   # Whether pages are files: links then name the very files.

  def load_url(self, model: models_lib.Model) -> str:
    """Returns what to give to hub.load, or to what else loads the model.

    A file server knows nothing of TensorFlow Hub's query parameter, and passes
    over it: the archive's own address works everywhere.
    """
    url = f"{self.base_url}/{model.handle}"
    if model.file:
      return f"{url}/{model.file}"
    return f"{url}.tar.gz" if self.is_static else url

  def index(self, directory: str) -> str:
    """Returns the link to a directory's page; `directory` ends with "/"."""
    return directory + "index.html" if self.is_static else directory or "./"

  def page(self, name: export_dirs.Handle | str) -> str:
    """Returns the link to a model's or collection's page from the site's top.
    """
    return f"{name}.html" if self.is_static else str(name)


@functools.cache
def assets() -> Mapping[str, tuple[bytes, str]]:
  """Returns the site's style, script and picture: name to content and type."""
  return {path.name: (path.read_bytes(), _ASSET_TYPES[path.suffix])
          for path in sorted(_ASSETS_DIR.iterdir())
          if path.suffix in _ASSET_TYPES}


def catalogue(place: Place, models: Sequence[models_lib.Model],
              query: Query = Query(),
              collections: Sequence[models_lib.Collection] = ()) -> str:
  """Returns the page of all models, the newest version of each."""
  newest = models_lib.newest(models)
  return _catalogue(
      place, newest, query, root="", heading="Published models",
      lead=_lead(len(newest)), trail=(), collections=collections)


def publisher(place: Place, models: Sequence[models_lib.Model], name: str,
              query: Query = Query(),
              collections: Sequence[models_lib.Collection] = ()) -> str:
  """Returns the page of one publisher's models, the newest version of each."""
  newest = models_lib.newest(
      [m for m in models if m.handle.publisher == name])
  return _catalogue(
      place, newest, query, root="../", heading=f"Models of {name}",
      lead=_lead(len(newest)), trail=(("Models", place.index("../")),),
      collections=[c for c in collections if c.publisher == name])


def versions(place: Place, models: Sequence[models_lib.Model],
             publisher_name: str, name: str) -> str:
  """Returns the page of all versions of one model, the newest first."""
  found = sorted((m for m in models if m.handle.publisher == publisher_name
                  and m.handle.name == name), key=lambda m: -m.handle.version)
  return _catalogue(
      place, [(model, 1) for model in found], Query(), root="../../",
      heading=name, lead="All versions, the newest first. What a version "
      "holds never changes.", names_versions=True,
      trail=(("Models", place.index("../../")),
             (publisher_name, place.index("../"))))


def model(place: Place, entry: models_lib.Model, card_text: str,
          side_files: Sequence[File], module_files: Sequence[File],
          other_versions: Sequence[int]) -> str:
  """Returns the page of one version.

  Args:
    place: Where the site is.
    entry: The model.
    card_text: Its card, in Markdown.
    side_files: What is published beside the module, with links.
    module_files: What is in it.
    other_versions: All versions of this model, itself included, descending.
  """
  handle = entry.handle
  load_url = place.load_url(entry)
  card = _card(card_text, tuple(file.link for file in side_files),
               str(handle)).at(place.base_url, load_url)
  return _render(
      "model.html.j2", place, root="../../", model=entry, card=card,
      snippets=snippets.for_model(
          entry, load_url, f"{place.base_url}/{handle}", side_files),
      side_files=side_files, module_files=module_files,
      is_altered=any(file.is_as_listed is False
                     for file in (*side_files, *module_files)),
      versions=other_versions,
      version_links={
          version: place.page(dataclasses.replace(handle, version=version)
                              ).rpartition("/")[2]
          for version in other_versions},
      trail=(("Models", place.index("../../")),
             (handle.publisher, place.index("../")),
             (handle.name, place.index(""))))


def collection(place: Place, entry: models_lib.Collection, text: str,
               models: Sequence[models_lib.Model]) -> str:
  """Returns the page of a collection, whose Markdown is `text`."""
  root = "../../../"
  links = {
      f"../../{m.handle.name}/{m.handle.version}.md": (
          root + place.page(m.handle))
      for m in models if m.handle.publisher == entry.publisher}
  return _render(
      "collection.html.j2", place, root=root, collection=entry,
      card=cards.render(text, [p.name for p in entry.pictures], {}, links),
      trail=(("Models", place.index(root)),
             (entry.publisher, place.index("../../"))))


def message(place: Place, heading: str, text: str) -> str:
  """Returns a page that says one thing, for any address: an error's page."""
  return _render("message.html.j2", place, root=f"{place.base_url}/",
                 heading=heading, text=text)


def _lead(count: int) -> str:
  models = "model" if count == 1 else "models"
  return (f"{count:,} {models}, each with its card, its checks and its files.")


def _catalogue(place: Place, entries: Sequence[tuple[models_lib.Model, int]],
               query: Query, root: str, names_versions: bool = False,
               collections: Sequence[models_lib.Collection] = (),
               **values: object) -> str:
  """Returns a page that lists `entries`: (model, number of versions).

  Where only the versions differ there is nothing to search for.
  All are on the page, those that do not match `query` hidden: a script can
  then search without asking again.
  """
  places = {entry.handle: i for i, (entry, _) in enumerate(entries)}
  counts = {entry.handle: count for entry, count in entries}
  entries = search.ordered([entry for entry, _ in entries], query.order)
  shown = {entry.handle for entry in search.matching(
      entries, query.text, query.kind or None)}
  rows = [{
      "model": entry, "place": places[entry.handle],
      "text": search.text(entry), "is_shown": entry.handle in shown,
      "name": (f"version {entry.handle.version}" if names_versions
               else entry.handle.name),
      # On the pages below, all are of the same one.
      "publisher_link": "" if root else place.index(
          f"{entry.handle.publisher}/"),
      "link": root + place.page(entry.handle),
      "num_versions": counts[entry.handle],
      "versions_link": place.index(
          f"{root}{entry.handle.publisher}/{entry.handle.name}/"),
      "figures": {name: _blank(figure(entry))
                  for name, (_, figure) in search.ORDERS.items()},
  } for entry in entries]
  return _render("catalogue.html.j2", place, root=root, rows=rows,
                 query=query.text, kind=query.kind, order=query.order,
                 orders=search.ORDERS, num_shown=len(shown),
                 has_search=not names_versions,
                 all_passed=all(e.status == "passed" for e in entries),
                 collections=[(c, root + place.page(c.name))
                              for c in collections], **values)


def _blank(value: float | None) -> float | str:
  return "" if value is None else value


@dataclasses.dataclass(frozen=True)
class _CardAnywhere:
  """A card with marks where addresses of the site are to stand."""
  card: cards.Card

  def at(self, base_url: str, load_url: str) -> cards.Card:
    """Returns the card for a site at `base_url`."""
    body = self.card.body
    for mark, url in ((_BASE_MARK, base_url), (_LOAD_MARK, load_url)):
      body = body.replace(mark, str(markupsafe.escape(url)))
    return dataclasses.replace(self.card, body=markupsafe.Markup(body))


# Parsing takes long, and visitors may name any host: the address comes later.
@functools.lru_cache(maxsize=256)
def _card(text: str, links: tuple[str, ...], handle: str) -> _CardAnywhere:
  return _CardAnywhere(cards.render(text, links, {
      f"PATH_OR_URL/{handle}": _LOAD_MARK, "PATH_OR_URL": _BASE_MARK}))


def _render(template: str, place: Place, root: str, **values: object) -> str:
  return _environment().get_template(template).render(
      root=root, home=place.index(root), policy=POLICY,
      is_static=place.is_static, assets_version=_assets_version(),
      kinds=search.KINDS, **values)


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True,
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
      finalize=_visible)
  environment.filters.update(
      percent=formats.percent, short=formats.short, size=formats.size,
      breakable=_breakable)
  return environment


@functools.cache
def _assets_version() -> str:
  """Returns what changes with style and script: browsers then ask again."""
  digest = hashlib.sha256()
  for content, _ in assets().values():
    digest.update(content)
  return digest.hexdigest()[:12]


def _breakable(name: str) -> markupsafe.Markup:
  """Returns a name that lines may break after `_`, `/`, `-` and `.`."""
  escaped = str(markupsafe.escape(_visible(name)))
  for mark in "_/-.":
    escaped = escaped.replace(mark, f"{mark}<wbr>")
  return markupsafe.Markup(escaped)


def _visible(value: object) -> object:
  """Returns text without invisible characters, anything else as it is.

  Those that turn the direction of text could make a name look like another.
  """
  if (isinstance(value, markupsafe.Markup) or not isinstance(value, str)
      or value.isprintable()):  # As nearly all is.
    return value
  return "".join(c for c in value
                 if c == "\n" or not unicodedata.category(c).startswith("C"))


def quoted(name: str) -> str:
  """Returns a file's name as a relative link has it."""
  return parse.quote(name)
