"""The hub over HTTP: TensorFlow Hub's protocol, the site, its files.

It only reads. Addresses are taken apart into handles and listed names; nothing
of them is ever joined to a path before that.
"""

import re
from collections.abc import Callable

from starlette import applications
from starlette import exceptions
from starlette import requests
from starlette import responses as starlette_responses
from starlette import routing
from starlette import types

from hub_export import errors
from hub_export import export_dirs
from hub_export.site import access_log
from hub_export.site import api
from hub_export.site import limits
from hub_export.site import models as models_lib
from hub_export.site import pages
from hub_export.site import responses
from hub_export.site import search
from hub_export.site import site as site_lib

_TEXT = "text/plain; charset=utf-8"
_PAGE_HEADERS = {
    "content-security-policy": pages.POLICY + "; frame-ancestors 'none'"}
# A version's archive is always the same bytes, but may have been taken away.
_ARCHIVE_CACHE = "public, max-age=86400"
_ASSET_CACHE = "public, max-age=31536000, immutable"
_ARCHIVE = ".tar.gz"
# publisher/name/version, then what is beside the module: a suffix, or a file
# of the evaluations.
_BESIDE = re.compile(r"((?:[^/]+/){2}([1-9][0-9]*))(\.[^/]+(?:/[^/]+)?)")
_COLLECTION = re.compile(
    r"([^/]+/collections/[^/]+/1)(?:\.html|(\.(?:[^/]+\.png|md)))?")
_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_MOST_QUERY_CHARACTERS = 200


def app(published: models_lib.Published, write_log: Callable[[str], None],
        base_url: str | None = None, max_downloads: int = 128
        ) -> types.ASGIApp:
  """Returns the ASGI application.

  Args:
    published: What it serves.
    write_log: Takes a line of JSON for each request.
    base_url: The site's address as users type it, without a slash at its end;
      by default what each request was sent to.
    max_downloads: Archives that are sent at once; more wait for a turn.
  """
  hub = _Hub(site_lib.Site(published), base_url,
             limits.Downloads(max_downloads))
  inner = applications.Starlette(
      routes=[
          routing.Route("/", hub.catalogue),
          routing.Route("/index.html", hub.catalogue),
          routing.Route("/healthz", hub.healthz),
          routing.Route("/_site/{name}", hub.asset),
          routing.Route("/api/v1/models.json", hub.api_models),
          routing.Route("/api/v1/models/{handle:path}.json", hub.api_model),
          routing.Route("/{path:path}", hub.published),
      ],
      exception_handlers={exceptions.HTTPException: hub.refused})
  inner.router.redirect_slashes = False
  return access_log.AccessLog(inner, write_log)


class _Hub:
  """The endpoints. Those that read files run in threads, as they may wait."""

  def __init__(self, site: site_lib.Site, base_url: str | None,
               downloads: limits.Downloads):
    self._site = site
    self._base_url = base_url
    self._downloads = downloads

  def catalogue(self, request: requests.Request) -> types.ASGIApp:
    return _page(self._site.catalogue(self._place(request), _query(request)))

  def healthz(self, _: requests.Request) -> types.ASGIApp:
    try:
      next(self._site.published.root.iterdir(), None)
    except OSError as e:
      return responses.Content(
          f"the published directory cannot be read ({e.strerror}); expected "
          "one that can be listed. Look at the machine.\n", _TEXT, 503)
    return responses.Content("ok\n", _TEXT)

  async def asset(self, request: requests.Request) -> types.ASGIApp:
    found = pages.assets().get(request.path_params["name"])
    if found is None:
      return self._missing(request, "is no part of the site")
    return responses.Content(*found, headers={"cache-control": _ASSET_CACHE})

  def api_models(self, request: requests.Request) -> types.ASGIApp:
    return _json(self._site.api_models(self._place(request)))

  def api_model(self, request: requests.Request) -> types.ASGIApp:
    text = request.path_params["handle"]
    handle = _handle(text)
    document = handle and self._site.api_model(self._place(request), handle)
    if not document:
      return responses.Content(
          api.problem(f"{text[:200]} is not published here; expected one that "
                      "api/v1/models.json lists."), site_lib.JSON, 404)
    return _json(document)

  def published(self, request: requests.Request) -> types.ASGIApp:
    """Answers for all that carries the name of something published."""
    path = request.path_params["path"]
    load_format = request.query_params.get("tf-hub-format")
    if load_format is not None:
      return self._load(request, path, load_format)
    handle = _handle(path) or (
        path.endswith(".html") and _handle(path.removesuffix(".html")))
    if handle:
      document = self._site.model(self._place(request), handle)
      if document:
        return _page(document)
      return self._missing(request, "is not published here")
    if match := _COLLECTION.fullmatch(path):
      return self._collection(request, match[1], match[2])
    match = _BESIDE.fullmatch(path)
    if match and (handle := _handle(match[1])):
      return self._side_file(request, handle, match[2] + match[3])
    return self._list(request, path)

  def _load(self, request: requests.Request, path: str, load_format: str
            ) -> types.ASGIApp:
    """Answers hub.load."""
    if load_format != "compressed":
      return responses.Content(
          f"tf-hub-format={load_format[:50]} is not served here; expected "
          "compressed. Unset TFHUB_MODEL_LOAD_FORMAT.\n", _TEXT, 400)
    try:
      handle = export_dirs.parse_handle(path.removesuffix(_ARCHIVE))
    except errors.HubExportError as e:
      return responses.Content(f"{e}\n"[:500], _TEXT, 404)
    return self._side_file(request, handle, f"{handle.version}{_ARCHIVE}")

  def _side_file(self, request: requests.Request, handle: export_dirs.Handle,
                 name: str) -> types.ASGIApp:
    file = self._site.side_file(handle, name)
    if file is None:
      return self._missing(request, "is not published here")
    headers = {}
    if name.endswith(_ARCHIVE):
      headers = {"cache-control": _ARCHIVE_CACHE}
    elif "/" in name:
      headers = {"content-security-policy": site_lib.EVALUATION_POLICY}
    return self._downloads.limited(
        responses.File(file.path, file.media_type, headers))

  def _collection(self, request: requests.Request, name: str,
                  suffix: str | None) -> types.ASGIApp:
    if suffix is None:
      document = self._site.collection(self._place(request), name)
      if document:
        return _page(document)
    elif file := self._site.collection_file(name, f"1{suffix}"):
      return self._downloads.limited(
          responses.File(file.path, file.media_type, {}))
    return self._missing(request, "is not published here")

  def _list(self, request: requests.Request, path: str) -> types.ASGIApp:
    """Answers for publishers and for models without a version."""
    place = self._place(request)
    parts = path.removesuffix("index.html").split("/")
    is_directory = not parts[-1]
    names = parts[:-1] if is_directory else parts
    document = None
    # Names that are no part of a handle are nobody's.
    if len(names) == 1 and _handle(f"{names[0]}/x/1"):
      document = self._site.publisher(place, names[0], _query(request))
    elif len(names) == 2 and _handle(f"{names[0]}/{names[1]}/1"):
      document = self._site.versions(place, *names)
    if document is None:
      return self._missing(request, "is not published here")
    if not is_directory:  # The page's links are relative.
      return starlette_responses.RedirectResponse(f"{names[-1]}/", 307)
    return _page(document)

  def _missing(self, request: requests.Request, why: str) -> types.ASGIApp:
    place = self._place(request)
    shown = request.scope["path"].lstrip("/")[:200]
    text = f"{shown} {why}; expected one of those that {place.base_url}/ lists."
    if "text/html" in request.headers.get("accept", ""):
      return responses.Content(
          pages.message(place, "Not found", text), site_lib.HTML, 404,
          _PAGE_HEADERS)
    return responses.Content(f"{text}\n", _TEXT, 404)

  def refused(self, request: requests.Request, error: Exception
              ) -> types.ASGIApp:
    """Answers what Starlette refuses: other methods than GET and HEAD."""
    return responses.Content(
        f"{request.method} is not served here; expected GET or HEAD: this hub "
        "only reads. Publish with the publish program.\n", _TEXT,
        error.status_code, error.headers)

  def _place(self, request: requests.Request) -> pages.Place:
    base_url = self._base_url
    if base_url is None:
      host = request.headers.get("host", "")
      # Only what can be a host: it stands in commands that people copy.
      if not _HOST.fullmatch(host):
        address, port = request.scope["server"]
        host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
      base_url = f"{request.scope['scheme']}://{host}"
    return pages.Place(base_url, is_static=False)


def _page(document: site_lib.Document) -> types.ASGIApp:
  return responses.Content(document.body, document.media_type,
                           headers=_PAGE_HEADERS)


def _json(document: site_lib.Document) -> types.ASGIApp:
  return responses.Content(document.body, document.media_type)


def _query(request: requests.Request) -> pages.Query:
  """Returns what is asked; what nobody can have chosen is passed over."""
  asked = request.query_params
  kind, order = asked.get("kind", ""), asked.get("order", "")
  return pages.Query(asked.get("q", "")[:_MOST_QUERY_CHARACTERS],
                     kind if kind in search.KINDS else "",
                     order if order in search.ORDERS else "")


def _handle(text: str) -> export_dirs.Handle | None:
  try:
    return export_dirs.parse_handle(text)
  except errors.HubExportError:
    return None
