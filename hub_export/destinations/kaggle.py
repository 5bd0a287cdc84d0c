"""Publishing to Kaggle Models: --to=kaggle://owner/model/framework/variation.

Kaggle numbers the versions of a variation itself, one after another, and never
changes one; publisher/name/3 has to become version 3 there. A version holds the
module at its root, as `hub.load` wants it, and what lies beside it elsewhere in
documents/; no archive, because Kaggle packs one itself. The card in Kaggle's
form is the variation's usage text, which can be renewed.

A version is there when Kaggle's last call says so, with all of its files. What
was sent before an interruption is dropped by Kaggle, and sent again.
"""

import contextlib
import http
import json
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import releases
from hub_export.destinations import base
from hub_export.destinations import layout
from hub_export.destinations import older_documents
from hub_export.destinations import remote

_FRAMEWORKS = tuple(dict.fromkeys(form.framework for form in forms.FORMS))
_DOCUMENTS = "documents"
_TIMEOUT_SECONDS = 120  # Without an answer to a call.
# Kaggle takes its time over large models before they can be downloaded.
_WAIT_SECONDS = 1800
_POLL_SECONDS = 5
# A busy server, too, says now and then that something is not there.
_LOOKS = 2
_SLUG = r"[A-Za-z0-9][A-Za-z0-9-]*"
# In the words of Kaggle's list of licences for models.
_LICENCES = {
    "apache-2.0": "Apache 2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause",
    "cc-by-3.0": "Attribution 3.0 Unported (CC BY 3.0)",
    "cc-by-4.0": "Attribution 4.0 International (CC BY 4.0)",
    "cc-by-nc-4.0":
        "Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)",
    "cc-by-nc-sa-4.0": "CC BY-NC-SA 4.0", "cc-by-sa-3.0": "CC BY-SA 3.0",
    "cc-by-sa-4.0": "CC BY-SA 4.0", "cc0-1.0": "CC0: Public Domain",
    "gpl-2.0": "GPL 2", "gpl-3.0": "GPL 3",
    "lgpl-3.0": "GNU Lesser General Public License 3.0"}


def from_url(to: str) -> "Kaggle":
  """Returns the destination at kaggle://owner/model/framework/variation.

  Raises:
    UsageError: if `to` is not of that form.
  """
  parts = to.partition("://")[2].rstrip("/").split("/")
  known = {framework.lower(): framework for framework in _FRAMEWORKS}
  if (len(parts) != 4 or not all(re.fullmatch(_SLUG, p) for p in parts)
      or parts[2].lower() not in known):
    raise errors.UsageError(
        f"--to={remote.redact(to)} names no variation of a "
        "model; expected kaggle://owner/model/framework/variation, each in "
        "letters, digits and hyphens, such as kaggle://my-lab/regnety/tensorFlow2/"
        "regnety600mf-classification; the framework is one of "
        f"{', '.join(_FRAMEWORKS)}")
  return Kaggle(parts[0], parts[1], known[parts[2].lower()], parts[3])


class Kaggle:
  """A `base.Destination` in a variation of a model on Kaggle."""

  is_remote = True

  def __init__(self, owner: str, model: str, framework: str, variation: str):
    """Connects to nothing yet."""
    self._owner = owner
    self._model = model
    self._framework = framework
    self._variation = variation
    self._is_open = False
    self._secrets: list[str] = []
    self._access = remote.Access(
        "Kaggle",
        ("KAGGLE_API_TOKEN in the environment",
         "KAGGLE_USERNAME and KAGGLE_KEY in the environment",
         "~/.kaggle/kaggle.json or ~/.kaggle/access_token, from your settings "
         "on Kaggle"),
        lambda: [*remote.in_environment("KAGGLE_API_TOKEN", "KAGGLE_KEY"),
                 *self._secrets])

  def exists(self, handle: export_dirs.Handle) -> bool:
    """As `base.Destination.exists`."""
    return (self._newest() >= handle.version
            and self._handle_of(handle.version) == str(handle))

  def plan(self, release: releases.Release) -> base.Plan:
    """As `base.Destination.plan`."""
    outcome = self._outcome(release)
    if outcome is base.Outcome.PUBLISHED:
      with self._bundle(release) as directory:
        return base.Plan(outcome, tuple(
            (f"{self._url(release.handle.version)}/{path}",
             directory.joinpath(path).stat().st_size)
            for path in _files(directory)), others=(
                f"kaggle://{self._owner}/{self._model}, a private model",
                f"{self._url()} (its card)"))
    if outcome is base.Outcome.RENEWED:
      return base.Plan(outcome, ((f"{self._url()} (its card)",
                                  len(self._card(release).encode())),))
    return base.Plan(outcome)

  def put(self, release: releases.Release) -> base.Outcome:
    """As `base.Destination.put`.

    Of the documents only the card can be renewed later: a version on Kaggle
    never changes.
    """
    outcome = self._outcome(release)
    if outcome is base.Outcome.PUBLISHED:
      with self._bundle(release) as directory:
        if self._upload(release, directory):
          self._wait(release)
          self._compare(release, directory)
          surplus = self._surplus(release)
          if surplus:
            raise errors.HubExportError(
                f"{release.handle} is published, but twice.{surplus}")
        else:
          # Another was first, or the first look was answered wrongly.
          self._wait(release)
          outcome = self._outcome(release)
    if outcome is not base.Outcome.UNCHANGED:
      self._renew_card(release)
    return outcome

  def verify(self, release: releases.Release) -> None:
    """As `base.Destination.verify`.

    Documents may be older than those of `release`, but must be there and
    agree with each other.
    """
    with self._bundle(release) as directory:
      self._compare(release, directory, same_documents=False)
    if (self._newest() == release.handle.version
        and self._published_card() != self._card(release)):
      raise errors.HubExportError(
          f"the card of {self._url()} is not that of {release.handle}; "
          "expected the same. Publish it again.")

  def write_pages(self, release: releases.Release) -> list[tuple[str, str]]:
    """As `base.Destination.write_pages`; there are none here."""
    del release
    return []

  def describe(self, handle: export_dirs.Handle) -> list[tuple[str, str]]:
    """As `base.Destination.describe`."""
    return [("module", self._url(handle.version)),
            ("card", self._url()),
            ("report", f"{self._url(handle.version)}/{_DOCUMENTS}/"
             f"{handle.version}.checks.json")]

  def next_steps(self, handle: export_dirs.Handle, form: forms.Form
                 ) -> list[str]:
    """As `base.Destination.next_steps`."""
    name = f"{self._name()}/{handle.version}"
    if not form.is_saved_model:
      return [f'kagglehub.model_download("{name}") + "/{form.marker}"']
    return [f'hub.load("https://www.kaggle.com/models/{name}")  '
            "# Once you have made it public there.",
            f'hub.load(kagglehub.model_download("{name}"))']

  # ----- What is there, and what would change

  def _outcome(self, release: releases.Release) -> base.Outcome:
    """Returns what `put` comes to.

    Raises:
      UsageError: if the module is none for this framework.
      HubExportError: if the version is taken by other bytes, cannot get its
        number, or the variation is that of another module.
    """
    framework = forms.by_name(release.manifest["form"]).framework
    if framework != self._framework:
      raise errors.UsageError(
          f"{release.handle} is for the framework {framework}, and {self._url()} "
          f"for {self._framework}; expected the same. Publish it to "
          f"kaggle://{self._owner}/{self._model}/{framework}/{self._variation}")
    version, newest = release.handle.version, self._newest()
    if version > newest + 1:
      raise errors.HubExportError(
          f"{self._url()} has {newest or 'no'} versions, so the next one there "
          f"is version {newest + 1}, not that of {release.handle}; expected "
          f"{newest + 1}. Publish the versions before it first, or export it "
          "as that version.")
    if newest:
      other = self._handle_of(min(version, newest))
      mine = f"{release.handle.publisher}/{release.handle.name}"
      if other.rpartition("/")[0] != mine:
        raise errors.HubExportError(
            f"{self._url()} holds {other}; expected versions of {mine} only. "
            "Publish to a variation of its own.")
    if version == newest + 1:
      return base.Outcome.PUBLISHED
    with self._bundle(release) as directory:
      self._compare(release, directory, same_documents=False)
    if version == newest and self._published_card() != self._card(release):
      return base.Outcome.RENEWED
    return base.Outcome.UNCHANGED

  def _compare(self, release: releases.Release, expected: pathlib.Path,
               same_documents: bool = True) -> None:
    """Downloads a version; HubExportError unless it is as `expected`."""
    version = release.handle.version
    with layout.work_dir() as work_dir:
      found = work_dir / "found"
      self._download(version, found)
      wanted = {path: export_dirs.file_sha256(expected / path)
                for path in _files(expected)}
      seen = {path: export_dirs.file_sha256(found / path)
              for path in _files(found)}
      older = [] if same_documents else older_documents.problems(
          found / _DOCUMENTS, version, release.export_sha256)
    module = {path: sha256 for path, sha256 in seen.items()
              if not path.startswith(f"{_DOCUMENTS}/")}
    digest = layout.hashes_digest(module)
    if digest != release.export_sha256:
      raise errors.HubExportError(
          base.taken(self._url(version), digest, release) + self._surplus(
              release))
    problems = [
        f"{self._url(version)}/{path} "
        f"{'differs' if path in seen else 'is missing'}"
        for path, sha256 in wanted.items() if path not in seen
        or same_documents and seen[path] != sha256]
    problems += [f"{self._url(version)}/{_DOCUMENTS}/{problem}"
                 for problem in older]
    if problems:
      raise errors.HubExportError(errors.join_problems(
          f"{release.handle} does not read back from {self._url(version)} as "
          "it was sent", problems, "Export a new version and publish that; "
          "Kaggle does not let this one be changed."))

  def _surplus(self, release: releases.Release) -> str:
    """Returns what to say of an upload that came second, "" if there is none.

    Two publishers at once get a number each; only the first has its own.
    """
    newest = self._newest()
    if (newest > release.handle.version
        and self._handle_of(newest) == str(release.handle)):
      return (f" Another publisher was first, and {self._url(newest)} is what "
              "came second: delete that version on Kaggle.")
    return ""

  @contextlib.contextmanager
  def _bundle(self, release: releases.Release) -> Iterator[pathlib.Path]:
    """Yields a directory with what a version on Kaggle holds."""
    with layout.work_dir() as root:
      with export_dirs.write_errors(root):
        for name in export_dirs.files(release.export_dir):
          root.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
          root.joinpath(name).symlink_to(
              release.export_dir.absolute() / name)  # Spares a copy.
        for name, content in release.documents:
          path = root / _DOCUMENTS / name
          path.parent.mkdir(parents=True, exist_ok=True)
          path.write_bytes(content)
      yield root

  def _card(self, release: releases.Release) -> str:
    from model_cards import forms as cards  # Renders; publishing elsewhere does not.
    return cards.kaggle(
        release.manifest, json.loads(release.report), (),
        f"{self._name()}/{release.handle.version}").strip()

  # ----- Kaggle

  def _upload(self, release: releases.Release, directory: pathlib.Path
              ) -> bool:
    """Makes the version; False if it would be the first and is not.

    kagglehub's own model_upload would make the second version then, with the
    bytes that are meant for the first.
    """
    licence = str(release.manifest["licence"]["id"]).lower()
    with self._calls(f"upload {self._url(release.handle.version)}"):
      from kagglehub import clients
      from kagglehub import gcs_upload
      from kagglehub import handle
      from kagglehub import models_helpers
      from kagglesdk.blobs.types import blob_api_service
      models_helpers.create_model_if_missing(self._owner, self._model)
      files = gcs_upload.upload_files_and_directories(
          str(directory), ignore_patterns=[],
          item_type=blob_api_service.ApiBlobType.MODEL)
      address = handle.parse_model_handle(self._name())
      if release.handle.version > 1:
        models_helpers._create_model_instance_version(
            address, files,
            f"{release.handle}, sha256 {release.export_sha256}")
        return True
      try:
        models_helpers._create_model_instance(
            address, files, _LICENCES.get(licence))
      except clients.BackendError as e:
        if e.error_code != http.HTTPStatus.CONFLICT:
          raise
        return False
      return True

  def _wait(self, release: releases.Release) -> None:
    """Waits until Kaggle has taken up a version that it was sent."""
    end = time.monotonic() + _WAIT_SECONDS
    while not self._is_there(release.handle.version):
      if time.monotonic() > end:
        raise errors.RemoteError(
            f"{self._url(release.handle.version)} was sent, but is not there "
            f"after {_WAIT_SECONDS // 60} minutes; expected Kaggle to have "
            "processed it. Look there, then publish again, which compares it.")
      time.sleep(_POLL_SECONDS)

  def _is_there(self, version: int) -> bool:
    """Returns whether a version can be listed, and so be downloaded."""
    if self._newest() < version:
      return False
    with self._calls(f"list {self._url(version)}") as kaggle:
      from kagglesdk.models.types import model_api_service as types
      request = self._addressed(types.ApiListModelInstanceVersionFilesRequest())
      request.version_number = version
      try:
        return bool(kaggle.list_model_instance_version_files(request).files)
      except Exception as e:  # remote.calls tells what it is.
        if remote.status(e) in (403, 404):
          return False
        raise

  def _newest(self) -> int:
    """Returns the number of the newest version, 0 if there is none."""
    instance = self._instance()
    return instance.version_number if instance else 0

  def _published_card(self) -> str:
    instance = self._instance()
    return instance.usage.strip() if instance else ""

  def _instance(self) -> Any:
    """Returns Kaggle's record of the variation, None if there is none."""
    with self._calls(f"look at {self._url()}") as kaggle:
      from kagglesdk.models.types import model_api_service as types
      request = self._addressed(types.ApiGetModelInstanceRequest())
      for _ in range(_LOOKS):
        try:
          return kaggle.get_model_instance(request)
        except Exception as e:  # remote.calls tells what it is.
          # What is not there, or not there for others, gets either answer.
          if remote.status(e) not in (403, 404):
            raise
      return None

  def _renew_card(self, release: releases.Release) -> None:
    with self._calls(f"write the card of {self._url()}") as kaggle:
      from google.protobuf import field_mask_pb2
      from kagglesdk.models.types import model_api_service as types
      request = self._addressed(types.ApiUpdateModelInstanceRequest())
      request.overview = release.manifest["card"]["description"]
      request.usage = self._card(release)
      request.fine_tunable = forms.is_fine_tunable(release.manifest)
      request.update_mask = field_mask_pb2.FieldMask(
          paths=["overview", "usage", "fine_tunable"])
      response = kaggle.update_model_instance(request)
      if response.error:
        raise OSError(response.error)
    if self._published_card() != self._card(release):
      raise errors.HubExportError(
          f"the card of {self._url()} does not read back as it was sent; "
          "expected the same. Publish it again.")

  def _handle_of(self, version: int) -> str:
    """Returns the handle that the manifest of a published version gives."""
    with layout.work_dir() as work_dir:
      directory = work_dir / "found"
      try:
        self._download(version, directory, str(export_dirs.MANIFEST))
        return str(export_dirs.read_manifest(directory)["handle"])
      except errors.RemoteError:
        raise
      except errors.HubExportError:
        return f"version {version} of something else"

  def _download(self, version: int, directory: pathlib.Path,
                path: str | None = None) -> None:
    with self._calls(f"read {self._url(version)}"):
      import kagglehub
      kagglehub.model_download(f"{self._name()}/{version}", path,
                               force_download=True, output_dir=str(directory))
    # kagglehub's own mark of what is complete.
    for mark in directory.glob("**/.complete"):
      for file in sorted(mark.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
      mark.rmdir()

  @contextlib.contextmanager
  def _calls(self, action: str) -> Iterator[Any]:
    """Yields Kaggle's client of models; errors become RemoteErrors."""
    with remote.calls(action, self._access):
      self._open()
      from kagglehub import clients
      with clients.build_kaggle_client() as client:
        yield client.models.model_api_client

  def _open(self) -> None:
    if self._is_open:
      return
    remote.quiet_progress()
    remote.set_default("KAGGLEHUB_VERBOSITY", "error")
    from kagglehub import config
    found = config.get_kaggle_credentials()
    if found is None:
      raise self._access.missing()
    _bound_waiting()
    self._secrets = list(filter(None, (found.key, found.api_key)))
    self._is_open = True

  def _addressed(self, request: Any) -> Any:
    from kagglehub import handle
    request.owner_slug = self._owner
    request.model_slug = self._model
    request.framework = handle.parse_model_handle(self._name()).framework_enum()
    request.instance_slug = self._variation
    return request

  def _name(self) -> str:
    return f"{self._owner}/{self._model}/{self._framework}/{self._variation}"

  def _url(self, version: int | None = None) -> str:
    return f"kaggle://{self._name()}" + (f"/{version}" if version else "")


def _files(directory: pathlib.Path) -> list[str]:
  return sorted(path.relative_to(directory).as_posix()
                for path in directory.rglob("*") if path.is_file())


def _bound_waiting() -> None:
  """Has requests give up on a server that says nothing any more.

  kagglesdk 0.1 sets no time and has no way to give one.
  """
  import requests
  send = requests.Session.send
  if send.__name__ == "bounded":  # It was done already.
    return

  def bounded(session, request, **kwargs):
    kwargs["timeout"] = kwargs.get("timeout") or _TIMEOUT_SECONDS
    return send(session, request, **kwargs)

  requests.Session.send = bounded
