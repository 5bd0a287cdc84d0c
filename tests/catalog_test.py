"""The catalog against what was published, and downloads over real connections.

The server is Python's own on the loopback address; an entry of the catalog is
pointed at it.
"""

import contextlib
import dataclasses
import hashlib
import http.server
import socket
import threading

import pytest

from hub_export import errors
from hub_export.regnet import variants
from hub_export.regnet import catalog

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/regnet/"
_REGNETY = ("https://github.com/AdityaKane2001/AdityaKane2001/releases/"
            "download/v0.1/")

# Hashes from the source of tf_keras.applications.regnet; top-1 from its
# trainer's blog and top-5 from the training log; the regnety project's figures
# from its README.
PUBLISHED = {
    "keras:regnety002": (
        "regnety_200mf", [_KERAS + "regnety002.h5"],
        "1e8091c674532b1a61c04f6393a9c570113e0197f22bd1b98cc4c4fe800c6465",
        68.51, 88.31),
    "keras:regnety004": (
        "regnety_400mf", [_KERAS + "regnety004.h5"],
        "752fdbad21c78911bf1dcb8c513e5a0e14697b068e5d9e73525dbaa416d18d8e",
        72.11, 90.43),
    "keras:regnety006": (
        "regnety_600mf", [_KERAS + "regnety006.h5"],
        "98942e07b273da500ff9699a1f88aca78dfad4375faabb0bab784bb0dace80a9",
        73.52, 91.52),
    "keras:regnety008": (
        "regnety_800mf", [_KERAS + "regnety008.h5"],
        "1b099377cc9a4fb183159a6f9b24bc998e5659d25a449f40c90cbffcbcfdcae4",
        74.48, 92.02),
    "regnety:200mf": (
        "regnety_200mf", [_REGNETY + "200mf_best.index",
                          _REGNETY + "200mf_best.data-00000-of-00001"],
        None, 67.54, None),
    "regnety:400mf": (
        "regnety_400mf", [_REGNETY + "400mf_best.index",
                          _REGNETY + "400mf_best.data-00000-of-00001"],
        None, 70.19, None),
    "regnety:600mf": (
        "regnety_600mf", [_REGNETY + "600mf_best.index",
                          _REGNETY + "600mf_best.data-00000-of-00001"],
        None, 73.18, None),
    "regnety:800mf": (
        "regnety_800mf", [_REGNETY + "800mf_best.index",
                          _REGNETY + "800mf_best.data-00000-of-00001"],
        None, 73.94, None),
}

CONTENT = bytes(range(256)) * 4000  # A megabyte: several pieces on the way.
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_every_entry_is_covered():
  assert list(PUBLISHED) == [e.name for e in catalog.ENTRIES]


@pytest.mark.parametrize("name", PUBLISHED)
def test_entries_are_as_published(name):
  entry = catalog.by_name(name)
  variant, urls, sha256, top1, top5 = PUBLISHED[name]
  assert entry.variant == variant
  assert entry.source == name.split(":")[0]
  assert [f.url for f in entry.files] == urls
  assert {f.sha256 for f in entry.files} == {sha256}
  assert (entry.accuracy.top1, entry.accuracy.top5) == (top1, top5)
  assert entry.source in catalog.SOURCES


def test_defaults_are_those_with_a_hash():
  assert [catalog.default(v).name for v in variants.VARIANTS] == [
      "keras:regnety002", "keras:regnety004", "keras:regnety006",
      "keras:regnety008"]


def test_hash_finds_its_entry():
  for name, (_, _, sha256, _, _) in PUBLISHED.items():
    if sha256:
      assert catalog.by_hash(sha256).name == name
  assert catalog.by_hash("0" * 64) is None


@pytest.mark.parametrize("name", ["keras:regnety016", "keras:", "regnety600mf",
                                  "keras:REGNETY006", ""])
def test_unknown_names_are_refused_with_those_that_exist(name):
  with pytest.raises(errors.UsageError) as e:
    catalog.by_name(name)
  assert repr(name) in str(e.value) and "keras:regnety006" in str(e.value)


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers with what the test has put into `server.answers`."""

  def do_GET(self):
    self.server.requests.append(self.path)
    status, body, announced = self.server.answers.get(
        self.path, (404, b"nothing here", None))
    self.send_response(status)
    self.send_header("Content-Length", str(announced or len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *_):
    pass


@pytest.fixture(name="server")
def _server():
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
    server.answers, server.requests = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("no_proxy", "127.0.0.1")


def entry_at(port, names=("regnety006.h5",), sha256=SHA256):
  return dataclasses.replace(
      catalog.by_name("keras:regnety006"), files=tuple(
          catalog.RemoteFile(f"http://127.0.0.1:{port}/files/{n}", sha256)
          for n in names))


def files_in(directory):
  return sorted(str(p.relative_to(directory))
                for p in directory.rglob("*") if p.is_file())


@contextlib.contextmanager
def unavailable(cache):
  """Expects an UnavailableError, and no file in the cache afterwards."""
  with pytest.raises(errors.UnavailableError) as e:
    yield e
  assert files_in(cache) == []


class TestFetch:

  def test_download_then_cache(self, server, tmp_path):
    server.answers["/files/regnety006.h5"] = (200, CONTENT, None)
    entry = entry_at(server.server_port)
    path = catalog.fetch(entry, tmp_path, offline=False)
    assert path.read_bytes() == CONTENT
    assert files_in(tmp_path) == ["keras_regnety006/regnety006.h5"]
    for offline in (False, True):
      assert catalog.fetch(entry, tmp_path, offline) == path
    assert server.requests == ["/files/regnety006.h5"]

  def test_two_files(self, server, tmp_path):
    names = ("600mf_best.index", "600mf_best.data-00000-of-00001")
    for name in names:
      server.answers[f"/files/{name}"] = (200, name.encode(), None)
    entry = entry_at(server.server_port, names, sha256=None)
    path = catalog.fetch(entry, tmp_path, offline=False)
    assert path.name == "600mf_best.index"
    for name in names:
      assert path.with_name(name).read_bytes() == name.encode()

  def test_second_of_two_files_missing(self, server, tmp_path):
    names = ("600mf_best.index", "600mf_best.data-00000-of-00001")
    server.answers[f"/files/{names[0]}"] = (200, b"index", None)
    entry = entry_at(server.server_port, names, sha256=None)
    with pytest.raises(errors.UnavailableError, match="data-00000-of-00001"):
      catalog.fetch(entry, tmp_path, offline=False)

  def test_wrong_bytes(self, server, tmp_path):
    server.answers["/files/regnety006.h5"] = (200, CONTENT[:-1] + b"x", None)
    with unavailable(tmp_path) as e:
      catalog.fetch(entry_at(server.server_port), tmp_path, offline=False)
    assert "not the file that was published" in str(e.value)
    assert SHA256 in str(e.value)

  def test_page_not_found(self, server, tmp_path):
    with unavailable(tmp_path) as e:
      catalog.fetch(entry_at(server.server_port), tmp_path, offline=False)
    assert "could not be downloaded" in str(e.value)
    assert f"{tmp_path}/keras_regnety006/regnety006.h5" in str(e.value)

  @pytest.mark.parametrize("sha256", [SHA256, None])
  def test_page_not_found_is_no_checkpoint(self, server, tmp_path, sha256):
    """Without a hash, an error page must not be taken for the file."""
    server.answers["/files/regnety006.h5"] = (503, CONTENT, None)
    entry = entry_at(server.server_port, sha256=sha256)
    with unavailable(tmp_path):
      catalog.fetch(entry, tmp_path, offline=False)

  def test_nobody_answers(self, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as s:
      port = s.getsockname()[1]
    with unavailable(tmp_path) as e:
      catalog.fetch(entry_at(port), tmp_path, offline=False)
    assert "could not be downloaded" in str(e.value)

  @pytest.mark.parametrize("sha256", [SHA256, None])
  def test_connection_is_cut(self, server, tmp_path, sha256):
    server.answers["/files/regnety006.h5"] = (200, CONTENT[:300_000],
                                              len(CONTENT))
    entry = entry_at(server.server_port, sha256=sha256)
    with unavailable(tmp_path):
      catalog.fetch(entry, tmp_path, offline=False)

  def test_damaged_in_the_cache_is_fetched_again(self, server, tmp_path):
    server.answers["/files/regnety006.h5"] = (200, CONTENT, None)
    entry = entry_at(server.server_port)
    path = catalog.fetch(entry, tmp_path, offline=False)
    path.write_bytes(CONTENT[:1000])
    assert catalog.fetch(entry, tmp_path, False).read_bytes() == CONTENT
    assert len(server.requests) == 2

  def test_offline_without_cache(self, server, tmp_path):
    server.answers["/files/regnety006.h5"] = (200, CONTENT, None)
    with unavailable(tmp_path) as e:
      catalog.fetch(entry_at(server.server_port), tmp_path, offline=True)
    assert "--offline forbids" in str(e.value)
    assert server.requests == []

  def test_offline_with_a_damaged_file(self, server, tmp_path):
    server.answers["/files/regnety006.h5"] = (200, CONTENT, None)
    entry = entry_at(server.server_port)
    path = catalog.fetch(entry, tmp_path, offline=False)
    path.write_bytes(b"damaged")
    with pytest.raises(errors.UnavailableError) as e:
      catalog.fetch(entry, tmp_path, offline=True)
    assert str(path) in str(e.value) and "SHA-256" in str(e.value)
    assert path.read_bytes() == b"damaged"  # Not ours to delete.
    assert len(server.requests) == 1

  def test_cache_that_cannot_be_written(self, server, tmp_path):
    server.answers["/files/regnety006.h5"] = (200, CONTENT, None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(errors.WriteError) as e:
      catalog.fetch(entry_at(server.server_port), tmp_path / "file", False)
    assert "REGNETY_HUB_CACHE" in str(e.value)
