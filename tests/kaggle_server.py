"""A small Kaggle: the calls by which kagglehub makes and reads models.

Versions of a variation are numbered by the server, in the order of the calls
that make them, and never change. Blobs are uploaded first, resumably.
"""

import hashlib
import json
import re

from werkzeug import wrappers

USERNAME = "lab"
KEY = "theKeyOfTheTests0123456789"


class Kaggle:
  """A WSGI application without models."""

  def __init__(self):
    self.models: set[str] = set()
    # By owner/model/variation.
    self.variations: dict[str, dict] = {}
    self.blobs: dict[str, dict] = {}
    # Called when a version is about to be made.
    self.before_version = lambda: None
    self.pending = 0  # How many looks it takes until a new version is shown.

  def versions(self, name: str) -> list[dict[str, bytes]]:
    """Returns the files of each version of owner/model/variation."""
    return self.variations.get(name, {}).get("versions", [])

  def add_version(self, name: str, files: dict[str, bytes],
                  licence: str | None = None) -> None:
    """Makes a version, and the variation if need be."""
    variation = self.variations.setdefault(
        name, {"versions": [], "usage": "", "overview": "",
               "licence": licence, "notes": []})
    variation["versions"].append(files)

  def __call__(self, environ, start_response):
    request = wrappers.Request(environ)
    return self._route(request)(environ, start_response)

  def _route(self, request: wrappers.Request) -> wrappers.Response:
    if request.path.startswith("/blobs/"):
      return self._put_blob(request)
    if (request.authorization is None
        or request.authorization.username != USERNAME
        or request.authorization.password != KEY):
      return _error(401, "Unauthenticated")
    call = request.path.rpartition("/")[2]
    record = request.get_json()
    name = "/".join(filter(None, (
        record.get("ownerSlug"), record.get("modelSlug"),
        record.get("instanceSlug"))))
    return getattr(self, f"_{call}")(request, record, name)

  def _StartBlobUpload(self, request, record, _) -> wrappers.Response:
    token = f"token{len(self.blobs)}"
    self.blobs[token] = {"name": record["name"], "content": b"",
                         "bytes": record["contentLength"]}
    return _json({"token": token,
                  "createUrl": f"{request.host_url}blobs/{token}"})

  def _put_blob(self, request: wrappers.Request) -> wrappers.Response:
    blob = self.blobs[request.path.rpartition("/")[2]]
    match = re.fullmatch(r"bytes (\d+)-\d+/\d+",
                         request.headers.get("Content-Range", ""))
    if match:
      if int(match[1]) != len(blob["content"]):
        return _error(400, "out of order")
      blob["content"] += request.get_data()
    if len(blob["content"]) < blob["bytes"]:
      response = wrappers.Response(status=308)
      if blob["content"]:
        response.headers["Range"] = f"bytes=0-{len(blob['content']) - 1}"
      return response
    return wrappers.Response()

  def _GetModel(self, request, record, name) -> wrappers.Response:
    if name not in self.models:
      return _error(404, "no such model")
    return _json({"id": 1, "ref": name, "slug": name.partition("/")[2]})

  def _CreateModel(self, request, record, _) -> wrappers.Response:
    assert record["isPrivate"]
    self.models.add(f"{record['ownerSlug']}/{record['slug']}")
    return _json({"id": 1})

  def _CreateModelInstance(self, request, record, name) -> wrappers.Response:
    body = record["body"]
    name = f"{name}/{body['instanceSlug']}"
    if name in self.variations:
      return _json({"error": "It exists already.", "errorCode": 409})
    return self._create(name, body)

  def _CreateModelInstanceVersion(self, request, record, name
                                  ) -> wrappers.Response:
    return self._create(name, record["body"])

  def _create(self, name: str, body: dict) -> wrappers.Response:
    self.before_version()
    files: dict[str, bytes] = {}
    problem = self._collect(body, "", files)
    if problem:
      return _json({"error": problem, "errorCode": 400})
    self.add_version(name, files, body.get("licenseName"))
    self.variations[name]["notes"].append(body.get("versionNotes"))
    return _json({"id": 2, "url": "somewhere"})

  def _collect(self, directory: dict, prefix: str, files: dict[str, bytes]
               ) -> str | None:
    for file in directory.get("files", ()):
      blob = self.blobs[file["token"]]
      if len(blob["content"]) != blob["bytes"]:
        return f"{blob['name']} was not uploaded"
      files[prefix + blob["name"]] = blob["content"]
    for inner in directory.get("directories", ()):
      problem = self._collect(inner, f"{prefix}{inner['name']}/", files)
      if problem:
        return problem
    return None

  def _GetModelInstance(self, request, record, name) -> wrappers.Response:
    variation = self.variations.get(name)
    if variation is None:
      return _error(404, "no such variation")
    newest = len(variation["versions"])
    if self.pending:
      self.pending -= 1
      newest -= 1
    return _json({"id": 3, "slug": record["instanceSlug"],
                  "framework": "tensorFlow2", "versionNumber": newest,
                  "usage": variation["usage"],
                  "overview": variation["overview"]})

  def _UpdateModelInstance(self, request, record, name) -> wrappers.Response:
    for field in record["updateMask"].split(","):
      self.variations[name][field] = record[field]
    return _json({"id": 3})

  def _ListModelInstanceVersionFiles(self, request, record, name
                                     ) -> wrappers.Response:
    files = self._version(record, name)
    if files is None:
      return _error(404, "no such version")
    return _json({"files": [{"name": path, "size": len(content)}
                            for path, content in sorted(files.items())],
                  "nextPageToken": ""})

  def _DownloadModelInstanceVersion(self, request, record, name
                                    ) -> wrappers.Response:
    content = (self._version(record, name) or {}).get(record["path"])
    if content is None:
      return _error(404, "no such file")
    return wrappers.Response(content, headers={"ETag": hashlib.md5(
        content).hexdigest()})

  def _version(self, record: dict, name: str) -> dict[str, bytes] | None:
    versions = self.versions(name)
    number = record["versionNumber"]
    return versions[number - 1] if 0 < number <= len(versions) else None


def _json(value: object) -> wrappers.Response:
  return wrappers.Response(json.dumps(value), mimetype="application/json")


def _error(code: int, message: str) -> wrappers.Response:
  response = _json({"code": code, "message": message})
  response.status_code = code
  return response
