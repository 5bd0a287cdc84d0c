"""A small Hugging Face Hub: what huggingface_hub calls to upload and download.

Repositories are lists of commits, a commit a table of files. Large files go
through Git LFS' batch protocol; a commit names the one it is on top of, and is
refused if that is no longer the newest.
"""

import base64
import hashlib
import json
import re

from werkzeug import wrappers

TOKEN = "hf_theTokenOfTheTests"


class Hub:
  """A WSGI application without repositories."""

  def __init__(self):
    self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
    # Uploaded content, by repository and SHA-256.
    self.large: dict[tuple[str, str], bytes] = {}
    # Called when a commit arrives, before it is looked at.
    self.before_commit = lambda: None

  def files(self, repo: str) -> dict[str, bytes]:
    """Returns the newest files of a repository, {} if there is none."""
    return self.commits[repo][-1][1] if repo in self.commits else {}

  def commit(self, repo: str, files: dict[str, bytes]) -> str:
    """Makes a commit of the given files, and the repository if need be."""
    before = self.commits.setdefault(repo, [])
    name = hashlib.sha1(
        f"{repo}{len(before)}{sorted(files)}".encode()).hexdigest()
    before.append((name, files))
    return name

  def __call__(self, environ, start_response):
    request = wrappers.Request(environ)
    return self._route(request)(environ, start_response)

  def _route(self, request: wrappers.Request) -> wrappers.Response:
    path = request.path
    if path.startswith("/lfs/"):  # Signed by their query, no header.
      if request.args.get("X-Amz-Signature") != "signed":
        return _error(403, "no signature")
      repo, _, oid = path.removeprefix("/lfs/").rpartition("/")
      if hashlib.sha256(request.get_data()).hexdigest() != oid:
        return _error(400, "other content than announced")
      self.large[repo, oid] = request.get_data()
      return wrappers.Response()
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
      return _error(401, "Invalid credentials in Authorization header",
                    "RepoNotFound")
    if path == "/api/validate-yaml":
      return _json({"errors": [], "warnings": []})
    if path == "/api/repos/create":
      return self._create(request)
    match = re.fullmatch(
        r"(?:/api/models)?/([\w.-]+/[\w.-]+?)(?:\.git)?(?:/(revision|tree|"
        r"preupload|commit|resolve|info/lfs/objects/batch)(?:/([^/]+))?"
        r"(?:/(.+))?)?", path)
    repo, what, revision, name = match.groups()
    if repo not in self.commits:
      return _error(404, "Repository not found", "RepoNotFound")
    answer = {"preupload": self._modes, "commit": self._commit,
              "info/lfs/objects/batch": self._batch}.get(what)
    if answer:
      return answer(request, repo)
    head, files = next(
        (c for c in reversed(self.commits[repo])
         if revision in (None, "main", c[0])), (None, None))
    if files is None:
      return _error(404, "no such revision", "RevisionNotFound")
    if what == "tree":
      return _json([_entry(name, files[name]) for name in sorted(files)])
    if what == "resolve":
      return _content(request, head, files, name)
    return _json({"id": repo, "modelId": repo, "sha": head, "private": False,
                  "tags": [], "siblings": [], "downloads": 0, "likes": 0})

  def _create(self, request: wrappers.Request) -> wrappers.Response:
    record = request.get_json()
    repo = f"{record['organization']}/{record['name']}"
    url = f"{request.host_url}{repo}"
    if repo in self.commits:
      response = _json({"url": url,
                        "error": "You already created this model repo"})
      response.status_code = 409
      return response
    self.commit(repo, {".gitattributes": b"*.pb filter=lfs\n"})
    return _json({"url": url, "name": repo})

  def _modes(self, request: wrappers.Request, repo: str
             ) -> wrappers.Response:
    files = self.files(repo)
    return _json({"files": [
        {"path": f["path"], "shouldIgnore": False,
         "uploadMode": "lfs" if _is_large(f["path"]) else "regular",
         **({"oid": _git_sha1(files[f["path"]])}
            if f["path"] in files and not _is_large(f["path"]) else {})}
        for f in request.get_json()["files"]]})

  def _batch(self, request: wrappers.Request, repo: str) -> wrappers.Response:
    return _json({"transfer": "basic", "objects": [
        {"oid": o["oid"], "size": o["size"],
         **({} if (repo, o["oid"]) in self.large else {"actions": {"upload": {
             "href": f"{request.host_url}lfs/{repo}/{o['oid']}"
                     "?X-Amz-Signature=signed"}}})}
        for o in request.get_json()["objects"]]})

  def _commit(self, request: wrappers.Request, repo: str
              ) -> wrappers.Response:
    self.before_commit()
    head, before = self.commits[repo][-1]
    files = dict(before)
    for line in request.get_data().splitlines():
      operation = json.loads(line)
      key, value = operation["key"], operation["value"]
      if key == "header" and value.get("parentCommit", head) != head:
        return _error(412, "A commit has happened since. Please refresh.")
      if key == "file":
        files[value["path"]] = base64.b64decode(value["content"])
      elif key == "lfsFile":
        if (repo, value["oid"]) not in self.large:
          return _error(400, f"{value['path']} was not uploaded")
        files[value["path"]] = self.large[repo, value["oid"]]
      elif key == "deletedFile":
        del files[value["path"]]
    name = self.commit(repo, files)
    return _json({"success": True, "commitOid": name,
                  "commitUrl": f"{request.host_url}{repo}/commit/{name}"})


def _is_large(path: str) -> bool:
  return path.endswith((".pb", ".tar.gz", ".png")) or ".data-" in path


def _entry(path: str, content: bytes) -> dict:
  entry = {"type": "file", "path": path, "size": len(content),
           "oid": _git_sha1(content)}
  if _is_large(path):
    entry |= {"oid": "1" * 40,  # That of the pointer; nobody may use it.
              "lfs": {"oid": hashlib.sha256(content).hexdigest(),
                      "size": len(content), "pointerSize": 130}}
  return entry


def _content(request: wrappers.Request, head: str, files: dict[str, bytes],
             name: str) -> wrappers.Response:
  if name not in files:
    return _error(404, "Entry not found", "EntryNotFound")
  response = wrappers.Response(files[name])
  response.headers["X-Repo-Commit"] = head
  response.headers["ETag"] = f'"{_git_sha1(files[name])}"'
  return response


def _git_sha1(content: bytes) -> str:
  return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(value: object) -> wrappers.Response:
  return wrappers.Response(json.dumps(value), mimetype="application/json")


def _error(code: int, message: str, name: str = "") -> wrappers.Response:
  response = _json({"error": message})
  response.status_code = code
  response.headers["X-Error-Message"] = message
  if name:
    response.headers["X-Error-Code"] = name
  return response
