"""The remote places to publish to, each as a real server on loopback.

A place has many spots: prefixes of a bucket, repositories, variations. Tests
see what users would: which files are published under which names.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import pytest

from tests import gcs_server
from tests import hugging_face_server
from tests import kaggle_server
from tests import loopback

NAMES = ("s3", "gs", "hf", "kaggle")
MODULE = "local/tiny_classification"
# Values of each place's credentials that no output may hold.
SECRETS = {"s3": ("theSecretKeyOfTheTests", "AKIATESTSTESTSTESTS"), "gs": (),
           "hf": (hugging_face_server.TOKEN,), "kaggle": (kaggle_server.KEY,)}
_CREDENTIALS = {
    "s3": {"AWS_ACCESS_KEY_ID": "AKIATESTSTESTSTESTS",
           "AWS_SECRET_ACCESS_KEY": "theSecretKeyOfTheTests",
           "AWS_DEFAULT_REGION": "us-east-1"},
    "gs": {}, "hf": {"HF_TOKEN": hugging_face_server.TOKEN},
    "kaggle": {"KAGGLE_USERNAME": kaggle_server.USERNAME,
               "KAGGLE_KEY": kaggle_server.KEY}}
_OWN = ("AWS_", "HF_", "KAGGLE_", "GOOGLE_", "STORAGE_EMULATOR_HOST",
        "BUILD_WORKING_DIRECTORY")
MODULES = {"s3": ("s3fs",), "gs": ("gcsfs.core", "google.auth"),
           "hf": ("huggingface_hub.hf_api", "model_cards.forms"),
           "kaggle": ("kagglehub", "kagglesdk.kaggle_client",
                      "model_cards.forms")}


class Place:
  """One kind of place, empty at first."""

  def __init__(self, name: str, server: loopback.Server, application):
    self.name = name
    self.server = server
    self.application = application

  def to(self, spot: str = "spot", framework: str = "tensorFlow2") -> str:
    """Returns what --to is; Kaggle asks for a framework."""
    return {"s3": f"s3://models/{spot}", "gs": f"gs://models/{spot}",
            "hf": f"hf://lab/{spot}",
            "kaggle": f"kaggle://lab/{spot}/{framework}/tiny"}[self.name]

  def files(self, spot: str = "spot", version: int = 1) -> dict[str, bytes]:
    """Returns all that lies there of the module, by `layout`'s names.

    But for what only one kind of place has: a README, other versions.
    """
    if self.name == "kaggle":
      versions = self.application.versions(f"lab/{spot}/tiny")
      found = versions[version - 1] if len(versions) >= version else {}
      return {path.removeprefix("documents/") if path.startswith("documents/")
              else f"{version}/{path}": content
              for path, content in found.items()}
    if self.name == "hf":
      found = self.application.files(f"lab/{spot}")
      return {path: content for path, content in found.items()
              if path not in ("README.md", ".gitattributes")}
    start = f"{spot}/{MODULE}/"
    found = (self.application.tree("models") if self.name == "gs"
             else _s3_objects())
    return {path.removeprefix(start): content
            for path, content in found.items() if path.startswith(start)}

  def is_write(self, method: str, path: str) -> bool:
    """Whether a request changes anything on the server."""
    if self.name == "kaggle":
      return path.rpartition("/")[2].startswith(
          ("Start", "Create", "Update", "token"))
    if self.name == "hf":
      return method == "PUT" or path.endswith(
          ("/create", "/commit/main", "/batch"))
    return method in ("PUT", "POST", "DELETE")

  def writes(self) -> int:
    """Returns how many such requests have come."""
    return sum(self.is_write(*r) for r in self.server.requests)

  def at_write(self, number: int, fault: loopback.Fault) -> None:
    """Sets a fault for one write, counted from 0 from now on."""
    start = self.writes()
    done = []
    def chosen(method: str, path: str, _: int) -> loopback.Fault | None:
      # The request itself is counted already.
      if (not done and self.is_write(method, path)
          and self.writes() - start - 1 >= number):
        done.append(path)
        return fault
      return None
    self.server.fault = chosen


def expected(export_dir: pathlib.Path, name: str) -> dict[str, bytes]:
  """Returns what `Place.files` is once `export_dir` is published, all of it.

  Without the archive, whose bytes are compared by what is in it.
  """
  version = export_dir.name
  parent = export_dir.parent
  found = {path.relative_to(parent).as_posix(): path.read_bytes()
           for path in export_dir.rglob("*") if path.is_file()}
  for path in (parent / f"{version}.md", parent / f"{version}.checks.json",
               *parent.glob(f"{version}.evaluations/*")):
    found[path.relative_to(parent).as_posix()] = path.read_bytes()
  if name != "kaggle":
    found[f"{version}.tar.gz"] = b""
  return found


@contextlib.contextmanager
def running(name: str, monkeypatch: pytest.MonkeyPatch,
            home: pathlib.Path) -> Iterator[Place]:
  """Yields a place; the environment leads there, with credentials."""
  for variable in list(os.environ):
    if variable.startswith(_OWN):
      monkeypatch.delenv(variable)
  application = {"s3": _s3_application, "kaggle": kaggle_server.Kaggle,
                 "gs": lambda: gcs_server.Storage("models"),
                 "hf": hugging_face_server.Hub}[name]()
  with loopback.Server(application) as server:
    for variable, value in (_CREDENTIALS[name] | {
        "HOME": str(home), "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "AWS_EC2_METADATA_DISABLED": "true", "TQDM_DISABLE": "1",
        "AWS_CONFIG_FILE": str(home / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "none"),
        "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
        {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST",
         "hf": "HF_ENDPOINT", "kaggle": "KAGGLE_TEST_URL"}[name]: server.url,
        }).items():
      monkeypatch.setenv(variable, value)
    if name == "kaggle":
      use_kaggle_server()
    if name == "hf":
      from huggingface_hub import constants
      monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield Place(name, server, application)


def use_kaggle_server() -> None:
  """Leads Kaggle's client to KAGGLE_TEST_URL, if that is set.

  The client knows only the port 80 of this machine and some of Kaggle's own.
  And it looks through the whole stack of calls for each request, to tell the
  server who asks: most of the time that a small upload takes.
  """
  if "KAGGLE_TEST_URL" in os.environ:
    from kagglehub import clients
    from kagglesdk import kaggle_env
    clients.get_user_agent = lambda: "kagglehub"
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = (
        os.environ["KAGGLE_TEST_URL"])


def impatient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
  """Has one place's client wait less between its attempts."""
  import time
  hasty = []
  if name == "s3":
    from hub_export.destinations import s3
    monkeypatch.setattr(s3, "_ATTEMPTS", 1)
  elif name == "gs":
    import asyncio
    from gcsfs import retry
    monkeypatch.setattr(retry, "asyncio", _Hasty(asyncio))
  elif name == "hf":
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http
    hasty = [_http, file_download]
  else:
    from hub_export.destinations import kaggle
    from kagglehub import gcs_upload
    hasty = [gcs_upload, kaggle]
  for module in hasty:
    monkeypatch.setattr(module, "time", _Hasty(time))


class _Hasty:
  """The module `time` or `asyncio`, but for its patience."""

  def __init__(self, module):
    self._module = module

  def sleep(self, seconds: float):
    return self._module.sleep(seconds / 100)

  def __getattr__(self, name: str):
    return getattr(self._module, name)


def _s3_application():
  from moto import server
  from moto.s3 import models
  for backend in models.s3_backends.values():
    backend["aws"].reset()
  models.s3_backends["123456789012"]["aws"].create_bucket(
      "models", "us-east-1")
  return server.DomainDispatcherApplication(server.create_backend_app)


def _s3_objects() -> dict[str, bytes]:
  from moto.s3 import models
  bucket = models.s3_backends["123456789012"]["aws"].buckets["models"]
  return {name: key.value for name, key in bucket.keys.items()}
