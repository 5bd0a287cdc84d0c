"""Publishing to Amazon S3 and its like: --to=s3://bucket/prefix.

Credentials, region and AWS_ENDPOINT_URL are found as AWS' own tools do.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from hub_export import forms
from hub_export.destinations import object_store
from hub_export.destinations import remote

_CONNECT_SECONDS = 20
_READ_SECONDS = 60
_ATTEMPTS = 3  # Of each request; s3fs makes several such series.


def from_url(to: str) -> object_store.ObjectStore:
  """Returns the destination at s3://bucket or s3://bucket/prefix."""
  return object_store.ObjectStore(
      "s3", object_store.root("s3", to), _S3())


class _S3:
  """An `object_store.Service`."""

  def __init__(self):
    self.access = remote.Access(
        "Amazon S3",
        ("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
         "a profile in ~/.aws/credentials, as `aws configure` or `aws sso "
         "login` makes it, named by AWS_PROFILE",
         "the role of the machine or container that this runs on"),
        self._secrets)
    self._found = None  # botocore's credentials.

  def open(self) -> Any:
    """As `object_store.Service.open`."""
    with remote.calls("find credentials", self.access):
      import botocore.session
      self._found = botocore.session.get_session().get_credentials()
    if self._found is None:
      raise self.access.missing()
    remote.quiet_logs("s3fs", "aiobotocore", "botocore")
    with remote.calls("open the client", self.access):
      import s3fs
      return s3fs.S3FileSystem(
          skip_instance_cache=True, use_listings_cache=False,
          config_kwargs={
              "connect_timeout": _CONNECT_SECONDS,
              "read_timeout": _READ_SECONDS,
              "retries": {"mode": "standard", "max_attempts": _ATTEMPTS}})

  def write_options(self, content_type: str) -> Mapping[str, Any]:
    """As `object_store.Service.write_options`."""
    return {"ContentType": content_type}

  def fingerprint(self, info: Mapping[str, Any]) -> tuple[Any, ...]:
    """As `object_store.Service.fingerprint`."""
    return (info["ETag"], str(info["LastModified"]), info["size"])

  def next_steps(self, path: str, form: forms.Form) -> list[str]:
    """As `object_store.Service.next_steps`."""
    bucket, _, key = path.partition("/")
    endpoint = (os.environ.get("AWS_ENDPOINT_URL_S3")
                or os.environ.get("AWS_ENDPOINT_URL"))
    base = (f"{remote.without_login(endpoint.rstrip('/'))}/{bucket}"
            if endpoint
            else f"https://{bucket}.s3.amazonaws.com")
    url = f"{base}/{key}" + (".tar.gz" if form.is_saved_model else "")
    return [form.load.format(url=url) + remote.IF_PUBLIC,
            f"aws s3 cp --recursive s3://{path} model"]

  def _secrets(self) -> Iterable[str]:
    known = remote.in_environment(
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    if self._found is not None:
      known += filter(None, (self._found.access_key, self._found.secret_key,
                             self._found.token))
    return known
