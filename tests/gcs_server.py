"""A small emulator of Google Cloud Storage's JSON API, as far as gcsfs uses it.

Objects live in memory and have generations; uploads in one request and
resumable ones, ranges, preconditions and pages of listings are there.
"""

import json
import re
from urllib import parse

from werkzeug import wrappers

_PAGE = 5  # Few, so that listings come in several pages.


class Storage:
  """A WSGI application with buckets that exist from the start."""

  def __init__(self, *buckets: str):
    self.buckets: dict[str, dict[str, dict]] = {name: {} for name in buckets}
    self._sessions: dict[str, dict] = {}
    self._generation = 0

  def tree(self, bucket: str) -> dict[str, bytes]:
    """Returns the objects' bytes by name."""
    return {name: o["content"] for name, o in self.buckets[bucket].items()}

  def __call__(self, environ, start_response):
    request = wrappers.Request(environ)
    return self._route(request)(environ, start_response)

  def _route(self, request: wrappers.Request) -> wrappers.Response:
    # Not PATH_INFO, in which a quoted "/" is gone.
    path = parse.urlsplit(request.environ["RAW_URI"]).path
    match = re.fullmatch(
        r"/(?:(upload|download)/)?storage/v1/b/([^/]+)(?:/(o|storageLayout)"
        r"(?:/(.+))?)?", path)
    if not match:
      return _error(404, "no such method")
    kind, bucket, what, name = match.groups()
    name = parse.unquote(name) if name else None
    if bucket not in self.buckets:
      return _error(404, "The specified bucket does not exist.")
    objects = self.buckets[bucket]
    if kind == "upload":
      return self._upload(request, bucket)
    if what is None:
      return _json({"kind": "storage#bucket", "name": bucket})
    if what == "storageLayout":
      return _json({"bucket": bucket, "locationType": "region"})
    if name is None:
      return self._list(request, bucket)
    if name not in objects:
      return _error(404, f"No such object: {bucket}/{name}")
    if request.method == "DELETE":
      del objects[name]
      return wrappers.Response(status=204)
    if request.args.get("alt") == "media" or kind == "download":
      return _media(request, objects[name]["content"])
    return _json(self._record(bucket, name))

  def _upload(self, request: wrappers.Request, bucket: str
              ) -> wrappers.Response:
    if request.args["uploadType"] == "multipart":
      _, head, rest = request.get_data().split(b"--==0==\n", 2)
      content_type, content = rest.removesuffix(b"\n--==0==--").split(
          b"\n\n", 1)
      return self._store(
          bucket, json.loads(head.split(b"\n\n", 1)[1])["name"], content,
          content_type.removeprefix(b"Content-Type: ").decode(),
          request.args)
    if "upload_id" not in request.args:
      session = str(len(self._sessions) + 1)
      self._sessions[session] = {
          "name": request.get_json(force=True)["name"], "content": b"",
          "args": request.args,
          "type": request.headers["X-Upload-Content-Type"]}
      response = wrappers.Response()
      response.headers["Location"] = (
          f"{request.host_url}upload/storage/v1/b/{bucket}/o?"
          f"uploadType=resumable&upload_id={session}")
      return response
    session = self._sessions[request.args["upload_id"]]
    if request.method == "DELETE":
      return wrappers.Response(status=499)
    first, last, total = re.fullmatch(
        r"bytes (\d+)-(\d+)/(\d+|\*)",
        request.headers["Content-Range"]).groups()
    assert int(first) == len(session["content"])
    session["content"] += request.get_data()
    if total == "*" or int(last) + 1 < int(total):
      return wrappers.Response(status=308, headers={
          "Range": f"bytes=0-{len(session['content']) - 1}"})
    return self._store(bucket, session["name"], session["content"],
                       session["type"], session["args"])

  def _store(self, bucket: str, name: str, content: bytes, content_type: str,
             args) -> wrappers.Response:
    if args.get("ifGenerationMatch") == "0" and name in self.buckets[bucket]:
      return _error(412, "At least one of the pre-conditions did not hold.")
    self._generation += 1
    self.buckets[bucket][name] = {
        "content": content, "type": content_type,
        "generation": self._generation}
    return _json(self._record(bucket, name))

  def _list(self, request: wrappers.Request, bucket: str
            ) -> wrappers.Response:
    prefix = request.args.get("prefix", "")
    delimiter = request.args.get("delimiter")
    items, prefixes = [], set()
    for name in sorted(self.buckets[bucket]):
      rest = name.removeprefix(prefix)
      if not name.startswith(prefix):
        continue
      if delimiter and delimiter in rest:
        prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
      else:
        items.append(self._record(bucket, name))
    start = int(request.args.get("pageToken", 0))
    answer = {"kind": "storage#objects", "prefixes": sorted(prefixes),
              "items": items[start:start + _PAGE]}
    if start + _PAGE < len(items):
      answer["nextPageToken"] = str(start + _PAGE)
    return _json(answer)

  def _record(self, bucket: str, name: str) -> dict[str, str]:
    o = self.buckets[bucket][name]
    return {"kind": "storage#object", "bucket": bucket, "name": name,
            "generation": str(o["generation"]), "contentType": o["type"],
            "size": str(len(o["content"])),
            "updated": "1999-01-01T00:00:00Z",  # No clock is to be trusted.
            "timeCreated": "2999-01-01T00:00:00Z"}


def _media(request: wrappers.Request, content: bytes) -> wrappers.Response:
  match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
  if not match:
    return wrappers.Response(content)
  start, end = int(match[1]), int(match[2] or len(content) - 1)
  if start >= len(content):
    return wrappers.Response(status=416)
  return wrappers.Response(content[start:end + 1], 206, headers={
      "Content-Range": f"bytes {start}-{end}/{len(content)}"})


def _json(value: object) -> wrappers.Response:
  return wrappers.Response(json.dumps(value), mimetype="application/json")


def _error(code: int, message: str) -> wrappers.Response:
  response = _json({"error": {"code": code, "message": message}})
  response.status_code = code
  return response
