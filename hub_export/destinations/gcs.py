"""Publishing to Google Cloud Storage: --to=gs://bucket/prefix.

Credentials are Google's application default ones. Where STORAGE_EMULATOR_HOST
names an emulator, that is used, without any.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from hub_export import forms
from hub_export.destinations import object_store
from hub_export.destinations import remote

_TIMEOUT_SECONDS = 300  # Of a request, a block of some megabytes at most.


def from_url(to: str) -> object_store.ObjectStore:
  """Returns the destination at gs://bucket or gs://bucket/prefix."""
  return object_store.ObjectStore("gs", object_store.root("gs", to), _Gcs())


class _Gcs:
  """An `object_store.Service`."""

  def __init__(self):
    self.access = remote.Access(
        "Google Cloud Storage",
        ("GOOGLE_APPLICATION_CREDENTIALS, the path of a service account's "
         "key, in the environment",
         "`gcloud auth application-default login`",
         "the service account of the machine that this runs on"),
        self._secrets)
    self._found = None  # google.auth's credentials.

  def open(self) -> Any:
    """As `object_store.Service.open`."""
    remote.quiet_logs("gcsfs", "google")
    token: Any = "anon"
    if not os.environ.get("STORAGE_EMULATOR_HOST"):
      token = self._credentials()
    # Spares gcsfs 2026.10 the import of its gRPC client, which asks what kind
    # each bucket is. An emulator or a proxy has no ear for that: seconds of
    # waiting for every call. So it is not used, even where it is imported.
    remote.set_default("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    with remote.calls("open the client", self.access):
      from gcsfs import core
      return core.GCSFileSystem(
          token=token, skip_instance_cache=True, use_listings_cache=False,
          requests_timeout=_TIMEOUT_SECONDS)

  def write_options(self, content_type: str) -> Mapping[str, Any]:
    """As `object_store.Service.write_options`."""
    return {"content_type": content_type}

  def fingerprint(self, info: Mapping[str, Any]) -> tuple[Any, ...]:
    """As `object_store.Service.fingerprint`."""
    return (info["generation"], info["size"])

  def next_steps(self, path: str, form: forms.Form) -> list[str]:
    """As `object_store.Service.next_steps`."""
    host = os.environ.get("STORAGE_EMULATOR_HOST")
    if host and "://" not in host:
      host = f"http://{host}"
    base = remote.without_login(
        host or "https://storage.googleapis.com").rstrip("/")
    if not form.is_saved_model:
      return [f"gcloud storage cp --recursive gs://{path} .",
              form.load.format(url=f"{base}/{path}") + remote.IF_PUBLIC]
    return [f'hub.load("gs://{path}")',
            form.load.format(url=f"{base}/{path}.tar.gz") + remote.IF_PUBLIC]

  def _credentials(self) -> Any:
    with remote.calls("find credentials", self.access):
      import google.auth
      from google.auth import exceptions
      try:
        self._found, _ = google.auth.default(scopes=[
            "https://www.googleapis.com/auth/devstorage.read_write"])
      except exceptions.DefaultCredentialsError as e:
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
          raise  # Given, but of no use: that has to be said.
        raise self.access.missing() from e
    return self._found

  def _secrets(self) -> Iterable[str]:
    token = getattr(self._found, "token", None)
    return [token] if isinstance(token, str) else []
