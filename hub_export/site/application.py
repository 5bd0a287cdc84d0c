"""The hub over HTTP: TensorFlow Hub's protocol, the site, its files.

It only reads. Addresses are taken apart into handles and listed names; nothing
of them is ever joined to a path before that.
"""

import re
from collections.abc import Callable

from starlette import concurrency
from starlette import requests
from starlette import responses as starlette_responses
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
# of the evaluations; or one of its own.
_BESIDE = re.compile(
    r"((?:[^/]+/){2}([1-9][0-9]*))(\.[^/]+(?:/[^/]+)?|/[^/]+)")
_COLLECTION = re.compile(
    r"([^/]+/collections/[^/]+/1)(?:\.html|(\.(?:[^/]+\.png|md)))?")
# What clients of proxies send (RFC 9112, section 3.2.2).
_ABSOLUTE = re.compile(r"https?://[^/]*", re.IGNORECASE)
_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_MOST_QUERY_CHARACTERS = 200


def app(published: models_lib.Published, write_log: Callable[[str], None],
        base_url: str | None = None, max_downloads: int = 128,
        downloads_per_client: int | None = None) -> types.ASGIApp:
  """Returns the ASGI application.

  Args:
    published: What it serves.
    write_log: Takes a line of JSON for each request.
    base_url: The site's address as users type it, without a slash at its end;
      by default what each request was sent to.
    max_downloads: Archives that are sent at once; more wait for a turn.
    downloads_per_client: Of those, so many for one; an eighth by default.
  """
  hub = _Hub(site_lib.Site(published), base_url,
             limits.Downloads(max_downloads, downloads_per_client))
  return access_log.AccessLog(hub, write_log)


class _Hub:
  """Finds the answer to each request, in a thread: files may keep waiting."""

  def __init__(self, site: site_lib.Site, base_url: str | None,
               downloads: limits.Downloads):
    self._site = site
    self._base_url = base_url
    self._downloads = downloads
    self._fixed = {
        "": self._catalogue, "index.html": self._catalogue,
        "healthz": self._healthz, "api/v1/models.json": self._api_models}

  async def __call__(self, scope: types.Scope, receive: types.Receive,
                     send: types.Send) -> None:
    if match := _ABSOLUTE.match(scope["path"]):
      scope = {**scope, "path": scope["path"][match.end():] or "/"}
    request = requests.Request(scope)
    if request.method in ("GET", "HEAD"):
      answer = await concurrency.run_in_threadpool(self._answer, request)
    else:
      answer = responses.Content(
          f"{request.method} is not served here; expected GET or HEAD: this "
          "hub only reads. Publish with the publish program.\n", _TEXT, 405,
          {"allow": "GET, HEAD"})
    await answer(scope, receive, send)

  def _answer(self, request: requests.Request) -> types.ASGIApp:
    """Returns the answer to GET."""
    if not request.scope["path"].startswith("/"):
      return self._missing(request, "is not published here")
    path = request.scope["path"][1:]
    load_format = request.query_params.get("tf-hub-format")
    if load_format is not None:  # Never a page, which hub.load would unpack.
      return self._load(request, path, load_format)
    if "lite-format" in request.query_params:
      return self._load_lite(request, path)
    if path in self._fixed:
      return self._fixed[path](request)
    if path.startswith("_site/"):
      return self._asset(request, path.removeprefix("_site/"))
    if path.startswith("api/v1/models/") and path.endswith(".json"):
      return self._api_model(request, path[len("api/v1/models/"):-len(".json")])
    return self._published(request, path)

  def _catalogue(self, request: requests.Request) -> types.ASGIApp:
    return _page(self._site.catalogue(self._place(request), _query(request)))

  def _healthz(self, _: requests.Request) -> types.ASGIApp:
    try:
      next(self._site.published.root.iterdir(), None)
    except OSError as e:
      return responses.Content(
          f"the published directory cannot be read ({e.strerror}); expected "
          "one that can be listed. Look at the machine.\n", _TEXT, 503)
    return responses.Content("ok\n", _TEXT)

  def _asset(self, request: requests.Request, name: str) -> types.ASGIApp:
    found = pages.assets().get(name)
    if found is None:
      return self._missing(request, "is no part of the site")
    return responses.Content(*found, headers={"cache-control": _ASSET_CACHE})

  def _api_models(self, request: requests.Request) -> types.ASGIApp:
    return _json(self._site.api_models(self._place(request)))

  def _api_model(self, request: requests.Request, text: str
                ) -> types.ASGIApp:
    handle = _handle(text)
    document = handle and self._site.api_model(self._place(request), handle)
    if not document:
      return responses.Content(
          api.problem(f"{text[:200]} is not published here; expected one that "
                      "api/v1/models.json lists."), site_lib.JSON, 404)
    return _json(document)

  def _published(self, request: requests.Request, path: str
                ) -> types.ASGIApp:
    """Answers for all that carries the name of something published."""
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
      newest = self._newest(path)
      advice = f". Its newest version is {newest}" if newest else ""
      return responses.Content(f"{str(e)[:500]}{advice}\n", _TEXT, 404)
    return self._side_file(request, handle, f"{handle.version}{_ARCHIVE}")

  def _load_lite(self, request: requests.Request, path: str
                 ) -> types.ASGIApp:
    """Answers who asks for a .tflite file as TensorFlow Hub hands them out."""
    handle = _handle(path)
    model = handle and self._site.published.model(handle)
    if (not model or model.form != "lite"
        or request.query_params["lite-format"] != "tflite"):
      return self._missing(
          request, "is no Lite model, or not asked for by lite-format=tflite")
    return self._side_file(request, handle, f"{handle.version}/{model.file}")

  def _newest(self, path: str) -> export_dirs.Handle | None:
    """Returns the newest version of "publisher/name", if that is what it is.
    """
    handle = _handle(f"{path}/1")
    if handle is None:
      return None
    versions = self._site.versions_of(handle)
    return versions[0] if versions else None

  def _side_file(self, request: requests.Request, handle: export_dirs.Handle,
                 name: str) -> types.ASGIApp:
    file = self._site.side_file(handle, name)
    if file is None:
      return self._missing(request, "is not published here")
    if self._site.is_altered(handle, file):
      return responses.Content(
          f"{handle.publisher}/{handle.name}/{name} does not match "
          f"{handle.version}.SHA256SUMS; expected the bytes that were "
          "published. It is to be published again.\n", _TEXT, 503,
          {"retry-after": "60"})
    headers = {}
    if name.endswith(_ARCHIVE):
      headers = {"cache-control": _ARCHIVE_CACHE}
    elif name.startswith(f"{handle.version}/"):
      # TensorFlow.js loads models into pages of other sites.
      headers = {"cache-control": _ARCHIVE_CACHE,
                 "access-control-allow-origin": "*"}
    elif "/" in name:
      headers = {"content-security-policy": site_lib.EVALUATION_POLICY}
    return responses.File(
        file.path, file.media_type, self._downloads, headers)

  def _collection(self, request: requests.Request, name: str,
                  suffix: str | None) -> types.ASGIApp:
    if suffix is None:
      document = self._site.collection(self._place(request), name)
      if document:
        return _page(document)
    elif file := self._site.collection_file(name, f"1{suffix}"):
      return responses.File(file.path, file.media_type, self._downloads)
    return self._missing(request, "is not published here")

  def _list(self, request: requests.Request, path: str) -> types.ASGIApp:
    """Answers for publishers and for models without a version."""
    place = self._place(request)
    parts = path.split("/")
    if parts[-1] == "index.html":
      parts[-1] = ""
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
      query = request.scope["query_string"].decode("latin-1")
      return starlette_responses.RedirectResponse(
          f"{names[-1]}/{'?' if query else ''}{query}", 307)
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
