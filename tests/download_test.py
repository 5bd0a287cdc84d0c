"""Downloads over real connections to a server that fails in every way."""

import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from hub_export import download
from hub_export import errors
from tests import download_server

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several pieces on the way.
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]
OTHER_SHA256 = hashlib.sha256(OTHER).hexdigest()
HALF = len(CONTENT) // 2
NAME = "model.safetensors"
PATH = f"/files/{NAME}"


@pytest.fixture(name="server")
def _server():
  with download_server.running() as server:
    server.files[PATH] = download_server.File(CONTENT)
    yield server


@pytest.fixture(name="waits", autouse=True)
def _waits(monkeypatch):
  """Collects the delays that would have been slept, in seconds."""
  waits = []
  monkeypatch.setattr(download, "DEFAULT_RETRY", download.Retry(
      attempts=3, timeout_s=5, sleep=waits.append))
  for name in list(os.environ):
    if name.lower().endswith("_proxy"):
      monkeypatch.delenv(name)
  return waits


def names(directory):
  return sorted(p.name for p in directory.rglob("*") if p.is_file())


def refused(server, directory, **kwargs):
  """Returns the message of the UnavailableError that a download ends in."""
  with pytest.raises(errors.UnavailableError) as e:
    download.fetch(server.url(PATH), directory, **kwargs)
  return str(e.value)


def keep_half(server, directory, **kwargs):
  """Leaves the first half of the file in the cache, as a cut does."""
  server.files[PATH].cut_at = HALF
  assert "cut" in refused(server, directory, **kwargs)
  server.files[PATH].cut_at = None
  server.requests.clear()


class TestWhole:

  def test_download_then_cache(self, server, tmp_path):
    for offline in (False, False, True):
      path = download.fetch(server.url(PATH), tmp_path, sha256=SHA256,
                            offline=offline)
      assert path == tmp_path / NAME and path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert names(tmp_path) == [NAME]

  def test_plain_bytes_are_asked_for(self, server, tmp_path):
    download.fetch(server.url(PATH), tmp_path)
    (_, headers), = server.requests
    assert headers["Accept-Encoding"] == "identity"
    assert "Range" not in headers

  def test_chunked(self, server, tmp_path):
    server.files[PATH].chunked = True
    path = download.fetch(server.url(PATH), tmp_path)
    assert path.read_bytes() == CONTENT

  def test_damaged_in_the_cache_is_fetched_again(self, server, tmp_path):
    path = download.fetch(server.url(PATH), tmp_path, sha256=SHA256)
    path.write_bytes(CONTENT[:1000])
    message = refused(server, tmp_path, sha256=SHA256, offline=True)
    assert "damaged" in message and str(path) in message
    assert path.read_bytes() == CONTENT[:1000]  # Not ours to delete.
    download.fetch(server.url(PATH), tmp_path, sha256=SHA256)
    assert path.read_bytes() == CONTENT

  def test_offline_without_it(self, server, tmp_path):
    message = refused(server, tmp_path, offline=True)
    assert "--offline forbids" in message and str(tmp_path / NAME) in message
    assert server.requests == [] and names(tmp_path) == []

  def test_url_has_a_directory_of_its_own(self, server, tmp_path):
    server.files["/other/model.safetensors"] = download_server.File(OTHER)
    first = download.fetch_url(server.url(PATH), tmp_path)
    second = download.fetch_url(server.url("/other/model.safetensors"),
                                tmp_path)
    assert first.name == second.name and first != second
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, OTHER)

  @pytest.mark.parametrize("url", [
      "ftp://host/file.h5", "file:///etc/passwd", "https:///file", "https://h",
      "https://host/", "http://[::1/file"])
  def test_no_address_of_a_file(self, tmp_path, url):
    with pytest.raises(errors.UsageError, match="no address of a file"):
      download.fetch_url(url, tmp_path)

  @pytest.mark.parametrize("url, name", [
      ("https://h/a/b.h5?token=1", "b.h5"),
      ("https://h/a/..%2F..%2Fetc", "_._.._etc"),
      ("https://h/.bashrc", "_bashrc"), ("https://h/" + "x" * 300, "x" * 150)])
  def test_names_stay_in_the_directory(self, url, name):
    assert download.file_name(url) == name


class TestResume:

  @pytest.mark.parametrize("etag, last_modified", [
      ('"v1"', None), (None, "Wed, 21 Oct 2015 07:28:00 GMT")])
  @pytest.mark.parametrize("sha256", [SHA256, None])
  def test_goes_on_where_it_stopped(self, server, tmp_path, sha256, etag,
                                    last_modified):
    server.files[PATH].etag = etag
    server.files[PATH].last_modified = last_modified
    keep_half(server, tmp_path, sha256=sha256)
    part = tmp_path / f"{NAME}.part"
    assert part.read_bytes() == CONTENT[:HALF]
    path = download.fetch(server.url(PATH), tmp_path, sha256=sha256)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-"]
    assert server.requests[0][1]["If-Range"] == (etag or last_modified)
    assert not part.exists()
    assert names(tmp_path) == [NAME] if sha256 else [
        NAME, f"{NAME}.download.json"]

  def test_within_one_call(self, server, tmp_path, waits):
    """Each attempt brings a megabyte, so that no number of them is too many."""
    file = server.files[PATH]

    def grow(seconds):
      waits.append(seconds)
      file.cut_at += 400_000 if len(waits) % 2 else 1_048_576
    file.cut_at = 100_000
    retry = download.Retry(attempts=3, timeout_s=5, sleep=grow)
    path = download.fetch(server.url(PATH), tmp_path, retry=retry)
    assert path.read_bytes() == CONTENT
    assert server.ranges[:3] == [None, "bytes=100000-", "bytes=500000-"]
    assert waits == [1, 2, 1, 2, 1]  # Starts over after each megabyte.

  def test_changed_meanwhile(self, server, tmp_path):
    keep_half(server, tmp_path)
    server.files[PATH] = download_server.File(OTHER, etag='"v2"')
    path = download.fetch(server.url(PATH), tmp_path)
    assert path.read_bytes() == OTHER
    assert server.ranges == [f"bytes={HALF}-"]  # Answered with the whole.

  def test_nothing_to_tell_a_change_by(self, server, tmp_path):
    """A part of another version must not become half of a file."""
    server.files[PATH].etag = 'W/"v1"'
    keep_half(server, tmp_path)
    path = download.fetch(server.url(PATH), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None]

  def test_hash_makes_up_for_that(self, server, tmp_path):
    server.files[PATH].etag = None
    keep_half(server, tmp_path, sha256=SHA256)
    download.fetch(server.url(PATH), tmp_path, sha256=SHA256)
    assert server.ranges == [f"bytes={HALF}-"]

  @pytest.mark.parametrize("sha256", [SHA256, SHA256[:8]])
  def test_part_damaged_on_the_disk(self, server, tmp_path, sha256):
    keep_half(server, tmp_path, sha256=sha256)
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * HALF)
    path = download.fetch(server.url(PATH), tmp_path, sha256=sha256)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={HALF}-", None]

  def test_server_without_ranges(self, server, tmp_path):
    keep_half(server, tmp_path)
    server.files[PATH].ranges = False
    path = download.fetch(server.url(PATH), tmp_path)
    assert path.read_bytes() == CONTENT

  def test_other_range_than_asked_for(self, server, tmp_path):
    keep_half(server, tmp_path)
    server.files[PATH].ranges = False
    server.files[PATH].status = 206
    server.files[PATH].headers = {
        "Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
    assert "HTTP 206" in refused(server, tmp_path)  # Now without a range.
    assert not (tmp_path / NAME).exists()

  def test_part_that_was_whole(self, server, tmp_path):
    """Killed between the last byte and the renaming."""
    keep_half(server, tmp_path)
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    path = download.fetch(server.url(PATH), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]

  @pytest.mark.parametrize("record", ["", "{", "[]", "null", '{"url": 1}',
                                      "[" * 100_000])
  def test_damaged_record_of_a_part(self, server, tmp_path, record):
    keep_half(server, tmp_path)
    (tmp_path / f"{NAME}.part.json").write_text(record)
    path = download.fetch(server.url(PATH), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None]


class TestHash:

  def test_not_what_was_published(self, server, tmp_path):
    message = refused(server, tmp_path, sha256=OTHER_SHA256)
    assert "not the file that was published" in message
    assert OTHER_SHA256 in message and SHA256 in message
    assert names(tmp_path) == []
    assert len(server.requests) == 1  # The same would come again.

  def test_first_digits(self, server, tmp_path):
    download.fetch(server.url(PATH), tmp_path / "good", sha256=SHA256[:8])
    message = refused(server, tmp_path / "bad", sha256=OTHER_SHA256[:8])
    assert f"does not begin with {OTHER_SHA256[:8]}" in message

  def test_recorded_at_first_use(self, server, tmp_path):
    path = download.fetch(server.url(PATH + "?secret=1"), tmp_path)
    record = json.loads((tmp_path / f"{NAME}.download.json").read_text())
    assert (record["sha256"], record["bytes"]) == (SHA256, len(CONTENT))
    assert record["url"] == server.url(PATH)
    path.unlink()
    server.files[PATH] = download_server.File(OTHER)
    message = refused(server, tmp_path)
    assert f"on {record['date']} it had SHA-256 {SHA256}" in message
    assert f"now came SHA-256 {OTHER_SHA256}" in message
    assert not path.exists()
    accept = re.search(r"delete (\S+) and run", message)[1]
    pathlib.Path(accept).unlink()
    download.fetch(server.url(PATH), tmp_path)
    assert path.read_bytes() == OTHER

  def test_recorded_and_the_same_again(self, server, tmp_path):
    path = download.fetch(server.url(PATH), tmp_path)
    path.write_bytes(b"damaged")
    assert download.fetch(server.url(PATH), tmp_path).read_bytes() == CONTENT

  def test_put_there_by_hand(self, server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    download.fetch(server.url(PATH), tmp_path, offline=True)
    record = json.loads((tmp_path / f"{NAME}.download.json").read_text())
    assert record["sha256"] == SHA256 and server.requests == []

  def test_damaged_record(self, server, tmp_path):
    download.fetch(server.url(PATH), tmp_path)
    (tmp_path / f"{NAME}.download.json").write_text('{"sha256": "abc"}')
    assert "cannot be read" in refused(server, tmp_path)


class TestRefused:

  @pytest.mark.parametrize("status, fault", [
      (404, "not there"), (410, "not there"), (403, "forbids it"),
      (401, "forbids it"), (400, "HTTP 400")])
  def test_status(self, server, tmp_path, waits, status, fault):
    server.files[PATH].status = status
    message = refused(server, tmp_path, sha256=SHA256, what="timm:x")
    assert fault in message and str(status) in message
    assert message.startswith("timm:x could not be downloaded from http://")
    assert str(tmp_path / NAME) in message  # Where to put it by hand.
    assert waits == [] and names(tmp_path) == []

  @pytest.mark.parametrize("sha256", [SHA256, None])
  def test_server_in_trouble(self, server, tmp_path, waits, sha256):
    server.files[PATH].failures = 9
    assert "HTTP 503" in refused(server, tmp_path, sha256=sha256)
    assert waits == [1, 2] and len(server.requests) == 3

  def test_trouble_that_passes(self, server, tmp_path, waits):
    server.files[PATH].failures = 2
    server.files[PATH].headers = {"Retry-After": "7"}
    assert download.fetch(server.url(PATH), tmp_path).read_bytes() == CONTENT
    assert waits == [7, 7]

  def test_asked_to_come_back_tomorrow(self, server, tmp_path, waits):
    server.files[PATH].failures = 1
    server.files[PATH].headers = {"Retry-After": "86400"}
    assert "wait for 86400 s" in refused(server, tmp_path)
    assert waits == []

  def test_retry_after_a_date(self, server, tmp_path, waits):
    server.files[PATH].failures = 1
    server.files[PATH].headers = {
        "Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}  # Long past.
    download.fetch(server.url(PATH), tmp_path)
    assert waits == [1]

  def test_shorter_than_announced(self, server, tmp_path):
    server.files[PATH].length = len(CONTENT) + 1
    for ranges in (True, False):
      server.files[PATH].ranges = ranges
      message = refused(server, tmp_path)
      assert "the connection was cut" in message
      assert not (tmp_path / NAME).exists()

  def test_longer_than_announced(self, server, tmp_path):
    server.files[PATH].length = HALF
    assert "not the file" in refused(server, tmp_path, sha256=SHA256)

  def test_no_length_at_all(self, server, tmp_path):
    server.files[PATH].headers = {"Content-Length": ""}
    assert "no length" in refused(server, tmp_path)
    path = download.fetch(server.url(PATH), tmp_path, sha256=SHA256)
    assert path.read_bytes() == CONTENT

  @pytest.mark.parametrize("start", [b"<!DOCTYPE html>", b"\n <HTML>"])
  @pytest.mark.parametrize("kind", ["text/html; charset=utf-8",
                                    "application/octet-stream"])
  def test_web_page(self, server, tmp_path, start, kind):
    server.files[PATH] = download_server.File(
        start + b"<p>Log in", headers={"Content-Type": kind})
    assert "a web page, perhaps of a login" in refused(
        server, tmp_path).replace(" came, perhaps", ", perhaps")
    assert names(tmp_path) == []

  def test_git_lfs_pointer(self, server, tmp_path):
    server.files[PATH].body = (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert "Git LFS pointer" in refused(server, tmp_path)

  def test_compressed_on_the_way(self, server, tmp_path):
    server.files[PATH].headers = {"Content-Encoding": "gzip"}
    assert "sent as gzip" in refused(server, tmp_path)

  def test_nobody_answers(self, tmp_path, waits):
    with socket.create_server(("127.0.0.1", 0)) as s:
      port = s.getsockname()[1]
    with pytest.raises(errors.UnavailableError, match="cannot be reached"):
      download.fetch_url(f"http://127.0.0.1:{port}/a.h5", tmp_path)
    assert waits == [1]  # Hope is small: the default must fall back soon.

  def test_silence(self, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as s:
      url = f"http://127.0.0.1:{s.getsockname()[1]}/a.h5"
      with pytest.raises(errors.UnavailableError, match="nothing came for"):
        download.fetch_url(url, tmp_path, retry=download.Retry(
            attempts=1, timeout_s=0.1))

  def test_no_tls_there(self, server, tmp_path):
    url = server.url(PATH).replace("http:", "https:")
    with pytest.raises(errors.UnavailableError, match="certificate"):
      download.fetch_url(url, tmp_path)

  def test_unknown_host(self, tmp_path, monkeypatch):
    def unknown(*_, **__):
      raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(errors.UnavailableError, match="cannot be resolved"):
      download.fetch_url("https://no.such.host/a.h5", tmp_path)

  def test_secrets_are_not_shown(self, server, tmp_path):
    url = server.url(PATH + "?X-Signature=hidden").replace(
        "//", "//user:hidden@")
    server.files[PATH].status = 403
    with pytest.raises(errors.UnavailableError) as e:
      download.fetch_url(url, tmp_path)
    assert "hidden" not in str(e.value) and "user" not in str(e.value)
    assert server.url(PATH) in str(e.value)
    assert "Authorization" in server.requests[0][1]


class TestRedirects:

  def redirect(self, server, target, status=302):
    server.files["/moved/model.safetensors"] = download_server.File(
        b"", status=status, headers={"Location": target})
    return server.url("/moved/model.safetensors")

  @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
  def test_followed(self, server, tmp_path, status):
    url = self.redirect(server, PATH, status)
    assert download.fetch(url, tmp_path).read_bytes() == CONTENT

  @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://h/f"])
  def test_to_another_scheme(self, server, tmp_path, target):
    with pytest.raises(errors.UnavailableError, match="not protected"):
      download.fetch(self.redirect(server, target), tmp_path)

  def test_from_https_to_http(self, tmp_path, monkeypatch):
    """No server with a certificate is needed to refuse the second step."""
    asked = []

    def get(self, url, **_):
      asked.append(url)
      response = download.requests.Response()
      response.status_code = 302
      response.headers["Location"] = "http://host/model.safetensors?key=hidden"
      response.raw = download.urllib3.HTTPResponse(b"")
      return response
    monkeypatch.setattr(download.requests.Session, "get", get)
    with pytest.raises(errors.UnavailableError) as e:
      download.fetch_url("https://host/model.safetensors", tmp_path)
    assert "http://host/model.safetensors, which is not protected" in str(
        e.value)
    assert "hidden" not in str(e.value)
    assert asked == ["https://host/model.safetensors"]

  def test_in_a_circle(self, server, tmp_path):
    url = self.redirect(server, "/moved/model.safetensors")
    with pytest.raises(errors.UnavailableError, match="more than 10 times"):
      download.fetch(url, tmp_path)


class TestProxy:

  def test_of_the_environment(self, server, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    monkeypatch.setenv("http_proxy", server.url(""))
    server.files[f"http://far.invalid{PATH}"] = download_server.File(CONTENT)
    path = download.fetch_url(f"http://far.invalid{PATH}", tmp_path)
    assert path.read_bytes() == CONTENT

  def test_not_for_no_proxy(self, server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert download.fetch_url(server.url(PATH), tmp_path).is_file()

  def test_that_is_not_there(self, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:hidden@127.0.0.1:1")
    with pytest.raises(errors.UnavailableError, match="proxy cannot be") as e:
      download.fetch_url("http://far.invalid/a.h5", tmp_path)
    assert "hidden" not in str(e.value)


class TestDisk:

  def test_cache_that_cannot_be_written(self, server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(errors.WriteError, match="REGNETY_HUB_CACHE"):
      download.fetch(server.url(PATH), tmp_path / "file" / "cache")

  def test_no_room(self, server, tmp_path, monkeypatch):
    class Usage:
      free = 1_000_000
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(errors.WriteError, match="needs 3 MB more.* 1 MB left"):
      download.fetch(server.url(PATH), tmp_path)

  def test_full_on_the_way(self, server, tmp_path):
    """A limit on file sizes stands in for a full disk."""
    script = (
        "import pathlib, resource, signal, sys\n"
        "from hub_export import download, errors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try:\n"
        "  download.fetch(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "except errors.WriteError as e:\n"
        "  print(e)\n")
    done = subprocess.run(
        [sys.executable, "-c", script, server.url(PATH), tmp_path],
        env=_environment(), capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout and "Free some" in done.stdout
    assert not (tmp_path / NAME).exists()


def _environment():
  return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


_FETCH = ("import pathlib, sys\n"
          "from hub_export import download\n"
          "print(download.fetch(sys.argv[1], pathlib.Path(sys.argv[2])))\n")


def _start(server, directory):
  return subprocess.Popen(
      [sys.executable, "-c", _FETCH, server.url(PATH), directory],
      env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      text=True)


class TestProcesses:

  def test_two_at_once_download_once(self, server, tmp_path):
    server.files[PATH].failures = 1  # The first one waits a second.
    programs = [_start(server, tmp_path) for _ in range(2)]
    ends = [program.communicate(timeout=60) for program in programs]
    assert [p.returncode for p in programs] == [0, 0]
    assert [out.strip() for out, _ in ends] == [str(tmp_path / NAME)] * 2
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert len(server.requests) == 2  # The failure and the download.
    said = "".join(err for _, err in ends)
    assert said.count("Waiting for another program") == 1

  def test_killed_midway_then_resumed(self, server, tmp_path):
    file = server.files[PATH]
    # Announces all and sends half, but keeps the connection open.
    file.cut_at = HALF
    hold = _Held(server)
    program = _start(server, tmp_path)
    part = tmp_path / f"{NAME}.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 500_000):
      assert time.monotonic() < deadline and program.poll() is None
      time.sleep(0.01)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    hold.release()
    file.cut_at = None
    kept = part.stat().st_size
    assert not (tmp_path / NAME).exists() and 0 < kept < len(CONTENT)
    server.requests.clear()
    path = download.fetch(server.url(PATH), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={kept}-"]


class _Held:
  """Keeps the server's connections open until it is released."""

  def __init__(self, server):
    self._server, self._close = server, server.shutdown_request
    self._held = []
    server.shutdown_request = self._held.append

  def release(self):
    self._server.shutdown_request = self._close
    for request in self._held:
      self._close(request)
