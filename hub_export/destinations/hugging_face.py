"""Publishing to the Hugging Face Hub: --to=hf://owner/repo.

A repository holds the versions of one module, side by side as `layout` lists
them, and a README.md: the newest version's card in the Hub's own form. A
version is published by one commit, which is all or nothing, and which the Hub
takes only on top of the state that was looked at; so of two publishers one has
to look again. Large files go first and are found again after an interruption.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib import parse

from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import releases
from hub_export.destinations import base
from hub_export.destinations import layout
from hub_export.destinations import remote

_README = "README.md"
_BRANCH = "main"
_TIMEOUT_SECONDS = 60  # Without a byte from the server.
# Each means that another publisher has just committed to the repository.
_MOST_ATTEMPTS = 20
# Of names of repositories and of their owners, as the Hub allows them.
_PART = r"[A-Za-z0-9][\w.-]{0,95}"


def from_url(to: str) -> "HuggingFace":
  """Returns the destination at hf://owner/repo.

  Raises:
    UsageError: if `to` is not of that form.
  """
  repo = to.partition("://")[2].rstrip("/")
  if not re.fullmatch(rf"{_PART}/{_PART}", repo, re.ASCII):
    raise errors.UsageError(
        f"--to={remote.redact(to)} names no repository; expected "
        "hf://owner/repo, such as hf://my-lab/regnety600mf_classification")
  return HuggingFace(repo)


class HuggingFace:
  """A `base.Destination` in a model repository of the Hugging Face Hub."""

  is_remote = True

  def __init__(self, repo: str):
    """Connects to nothing yet; `repo` is owner/name."""
    self._repo = repo
    self._token: str | None = None
    self._opened: Any = None
    # SHA-256 by name and the Hub's own hash of files that were read once.
    self._read: dict[tuple[Any, ...], str] = {}
    self._access = remote.Access(
        "the Hugging Face Hub",
        ("HF_TOKEN, a token that may write, in the environment",
         "`hf auth login`, which keeps one in the home directory",
         "HF_TOKEN_PATH, the path of a file with one, in the environment"),
        lambda: [*remote.in_environment("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
                 *filter(None, [self._token])])

  def exists(self, handle: export_dirs.Handle) -> bool:
    """As `base.Destination.exists`."""
    head = self._head()
    found = self._list(head) if head else {}
    return layout.is_whole(found, handle.version)

  def plan(self, release: releases.Release) -> base.Plan:
    """As `base.Destination.plan`."""
    with layout.parts(release) as parts:
      head = self._head()
      outcome, writes, removes = self._changes(release, parts, head)
      return base.Plan(outcome,
                       tuple((self._url(p.name), p.bytes) for p in writes),
                       tuple(map(self._url, removes)),
                       () if head else (f"{self._url('')}, a repository",))

  def put(self, release: releases.Release) -> base.Outcome:
    """As `base.Destination.put`."""
    with layout.parts(release) as parts:
      self._changes(release, parts, self._head())  # May refuse; writes nothing.
      for _ in range(_MOST_ATTEMPTS):
        head = self._head() or self._make_repository()
        outcome, writes, removes = self._changes(release, parts, head)
        if outcome is base.Outcome.UNCHANGED:
          return outcome
        if self._commit(release, head, writes, removes):
          self._verify_parts(release, parts)
          return outcome
    raise errors.RemoteError(
        f"cannot commit to {self._url('')}: others keep committing first; "
        "expected a turn. Publish again when they are done.")

  def verify(self, release: releases.Release) -> None:
    """As `base.Destination.verify`."""
    with layout.parts(release) as parts:
      self._verify_parts(release, parts)

  def write_pages(self, release: releases.Release) -> list[tuple[str, str]]:
    """As `base.Destination.write_pages`; there are none here."""
    del release
    return []

  def describe(self, handle: export_dirs.Handle) -> list[tuple[str, str]]:
    """As `base.Destination.describe`."""
    v = handle.version
    return [("module", self._url(f"{v}/")),
            ("archive", self._url(f"{v}{layout.ARCHIVE_SUFFIX}")),
            ("card", self._url(_README)),
            ("report", self._url(f"{v}.checks.json"))]

  def next_steps(self, handle: export_dirs.Handle, form: forms.Form
                 ) -> list[str]:
    """As `base.Destination.next_steps`."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    base = remote.without_login(endpoint.rstrip("/"))
    url = f"{base}/{self._repo}/resolve/{_BRANCH}/{handle.version}"
    if form.is_saved_model:
      url += layout.ARCHIVE_SUFFIX
    local = (f'huggingface_hub.snapshot_download("{self._repo}") + '
             f'"/{handle.version}"')
    return [form.load.format(url=url) + remote.IF_PUBLIC,
            f"hub.load({local})" if form.is_saved_model else local]

  # ----- What is there, and what would change

  def _changes(self, release: releases.Release,
               parts: tuple[layout.Part, ...], head: str | None
               ) -> tuple[base.Outcome, list[layout.Part], list[str]]:
    """Returns the outcome of `put`, what it writes and what it removes.

    Args:
      release: What is to be published.
      parts: Its parts.
      head: The commit to look at, None if there is no repository.
    """
    found = self._list(head) if head else {}
    is_published = release.handle.version in layout.published(found)
    if head:
      self._check_name(release, found, head)
    if is_published:
      self._check_module(release, parts, found, head)
      signature = f"{release.handle.version}{layout.SIGNATURE_SUFFIX}"
      if signature in found:
        with layout.work_dir() as work_dir:
          layout.check_signature(
              self._download(signature, head, work_dir).read_bytes(), release)
    for part in parts:
      if (part.name == f"{release.handle.version}{layout.ARCHIVE_SUFFIX}"
          and is_published and part.name in found
          and not _is_same(part, found)):
        raise errors.HubExportError(base.archive_taken(
            self._url(part.name), part.sha256, release))
    writes = [p for p in (*parts, *self._readme(release, found))
              if not _is_same(p, found)]
    removes = layout.stale(found, release)
    if not is_published:
      names = {p.name for p in parts}
      removes += [name for name in found if name not in names
                  and layout.is_module_file(name, release.handle.version)]
      return base.Outcome.PUBLISHED, writes, removes
    if writes or removes:
      return base.Outcome.RENEWED, writes, removes
    return base.Outcome.UNCHANGED, [], []

  def _check_module(self, release: releases.Release,
                    parts: tuple[layout.Part, ...],
                    found: Mapping[str, Any], head: str) -> None:
    """Raises HubExportError if the module is there with other bytes."""
    version = release.handle.version
    names = [name for name in found if layout.is_module_file(name, version)]
    expected = [p for p in parts if layout.is_module_file(p.name, version)]
    if set(names) != {p.name for p in expected} or not all(
        _is_same(p, found) for p in expected):
      sha256s = {
          name.removeprefix(f"{version}/"):
              self._sha256(name, head, found[name]) for name in names}
      raise errors.HubExportError(base.taken(
          self._url(f"{version}/"), layout.hashes_digest(sha256s), release))

  def _check_name(self, release: releases.Release, found: Mapping[str, Any],
                  head: str) -> None:
    """Raises HubExportError if the repository is that of another module."""
    for name in found:
      if not re.fullmatch(r"[1-9]\d*\.checks\.json", name):
        continue
      with layout.work_dir() as work_dir:
        path = self._download(name, head, work_dir)
        try:
          other = str(json.loads(path.read_bytes())["handle"])
        except (ValueError, KeyError, TypeError):
          other = f"something else ({name} is no report)"
      mine = f"{release.handle.publisher}/{release.handle.name}"
      if other.rpartition("/")[0] != mine:
        raise errors.HubExportError(
            f"{self._url('')} holds {other}; expected versions of {mine} "
            "only. Publish to a repository of its own.")
      return  # All others were held against the same.
    if layout.published(found):
      return  # Only its report is missing, and will be there again.
    foreign = [name for name in found if name != ".gitattributes"
               and not (name == _README and self._is_bare(name, head))]
    if foreign:
      raise errors.HubExportError(
          f"{self._url('')} holds {foreign[0]} and no version of a module; "
          "expected an empty repository, or one that was published to before. "
          "Publish to a repository of its own.")

  def _is_bare(self, name: str, head: str) -> bool:
    """Whether a card has only the front matter that the Hub makes it with."""
    with layout.work_dir() as work_dir:
      content = self._download(name, head, work_dir).read_bytes()
    return not re.sub(rb"\A---\n.*?^---\s*", b"", content, flags=re.S | re.M)

  def _readme(self, release: releases.Release, found: Iterable[str]
              ) -> list[layout.Part]:
    """Returns README.md, unless a newer version than `release` has one."""
    if any(version > release.handle.version
           for version in layout.published(found)):
      return []
    from model_cards import forms as cards  # Renders; publishing elsewhere does not.
    report = json.loads(release.report)
    names = {name for name, _ in release.documents}
    links = [link for link in export_dirs.evaluation_links(
        str(release.handle.version), report["dataset"]["name"],
        report["dataset"]["split"]) if parse.unquote(link) in names]
    card = cards.hugging_face(release.manifest, report, links, self._repo)
    return [layout.of_bytes(_README, card.encode())]

  def _verify_parts(self, release: releases.Release,
                    parts: tuple[layout.Part, ...]) -> None:
    """Downloads everything; HubExportError unless it is as it is here."""
    head = self._head()
    found = self._list(head) if head else {}
    if release.handle.version in layout.published(found):
      self._check_module(release, parts, found, head)
    problems = []
    for part in (*parts, *self._readme(release, found)):
      if part.name not in found:
        problems.append(f"{self._url(part.name)} is missing")
      elif self._sha256(part.name, head, found[part.name]) != part.sha256:
        problems.append(f"{self._url(part.name)} differs")
    problems += [f"{self._url(name)} does not belong there"
                 for name in layout.stale(found, release)]
    if problems:
      raise errors.HubExportError(errors.join_problems(
          f"{release.handle} does not read back from {self._url('')} as it "
          "was sent", problems, "Publish it again."))

  # ----- The Hub

  def _commit(self, release: releases.Release, head: str,
              writes: list[layout.Part], removes: list[str]) -> bool:
    """Commits on top of `head`; False if others have committed meanwhile."""
    api = self._api()
    import huggingface_hub
    operations = [
        *(huggingface_hub.CommitOperationAdd(
            p.name, p.source if isinstance(p.source, bytes)
            else str(p.source)) for p in writes),
        *(huggingface_hub.CommitOperationDelete(name) for name in removes)]
    with remote.calls(f"commit to {self._url('')}", self._access):
      try:
        api.create_commit(
            self._repo, operations, parent_commit=head, revision=_BRANCH,
            commit_message=f"Publish {release.handle}",
            commit_description=f"export_sha256: {release.export_sha256}")
      except huggingface_hub.errors.HfHubHTTPError as e:
        if remote.status(e) in (409, 412):
          return False
        raise
    return True

  def _make_repository(self) -> str:
    with remote.calls(f"make {self._url('')}", self._access):
      self._api().create_repo(self._repo, exist_ok=True)
    head = self._head()
    if head is None:
      raise errors.RemoteError(
          f"{self._url('')} was made and is not to be found; expected it to be "
          "there. Publish again in a moment.")
    return head

  def _head(self) -> str | None:
    """Returns the newest commit; None if there is no repository."""
    api = self._api()
    import huggingface_hub
    with remote.calls(f"look at {self._url('')}", self._access):
      try:
        return api.repo_info(self._repo, revision=_BRANCH).sha
      except huggingface_hub.errors.RepositoryNotFoundError as e:
        if remote.status(e) == 401:  # The Hub's word for a bad token, too.
          raise
        return None

  def _list(self, head: str) -> dict[str, Any]:
    """Returns the files of a commit, RepoFile by path."""
    with remote.calls(f"list {self._url('')}", self._access):
      tree = self._api().list_repo_tree(
          self._repo, recursive=True, revision=head)
      return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}

  def _sha256(self, name: str, head: str, entry: Any) -> str:
    """Returns the hash of a file's bytes, downloading them at most once."""
    key = (name, entry.blob_id, entry.lfs and entry.lfs.sha256)
    if key not in self._read:
      with layout.work_dir() as work_dir:
        self._read[key] = export_dirs.file_sha256(
            self._download(name, head, work_dir))
    return self._read[key]

  def _download(self, name: str, head: str, work_dir: pathlib.Path
                ) -> pathlib.Path:
    with remote.calls(f"read {self._url(name)}", self._access):
      return pathlib.Path(self._api().hf_hub_download(
          self._repo, name, revision=head, local_dir=work_dir))

  def _api(self) -> Any:
    if self._opened is None:
      remote.quiet_progress()
      with remote.calls("open the client", self._access):
        import huggingface_hub
        self._token = huggingface_hub.get_token()
        if not self._token:
          raise self._access.missing()
        _bound_waiting()
        self._opened = huggingface_hub.HfApi(
            endpoint=os.environ.get("HF_ENDPOINT"), token=self._token)
    return self._opened

  def _url(self, name: str) -> str:
    return f"hf://{self._repo}/{name}".rstrip("/")


def _is_same(part: layout.Part, found: Mapping[str, Any]) -> bool:
  """Whether the Hub has a part already, by the hash that it names it by."""
  entry = found.get(part.name)
  if entry is None or entry.size != part.bytes:
    return False
  if entry.lfs is not None:
    return entry.lfs.sha256 == part.sha256
  return entry.blob_id == _git_sha1(part)


def _git_sha1(part: layout.Part) -> str:
  """Returns git's name for the part's content."""
  digest = hashlib.sha1(f"blob {part.bytes}\0".encode())
  with part.open() as f:
    while block := f.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def _bound_waiting() -> None:
  """Has the client give up on a server that says nothing any more.

  As it comes (huggingface_hub 2.4), it waits for ever.
  """
  import huggingface_hub
  from huggingface_hub.utils import _http

  def client():
    made = _http.default_client_factory()
    made.timeout = _TIMEOUT_SECONDS
    return made

  huggingface_hub.set_client_factory(client)
