"""Tests of hub_export/serve.py, over real connections to the real program."""

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from hub_export import releases
from hub_export.destinations import directory
from tests import tiny_export

_ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k != "BUILD_WORKING_DIRECTORY"},
    "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
_COMMAND = [sys.executable, "-m", "hub_export.serve"]
_ARCHIVE = "/local/tiny_classification/1?tf-hub-format=compressed"


def _publish(to: pathlib.Path, export_dir: pathlib.Path) -> None:
  directory.Directory(to).put(releases.read(export_dir))


@contextlib.contextmanager
def _serving(root: pathlib.Path, *flags: str) -> Iterator[tuple[int, str]]:
  """Runs the server; yields its port and what it printed on starting."""
  process = subprocess.Popen(
      [*_COMMAND, f"--root={root}", "--port=0", *flags], env=_ENVIRONMENT,
      text=True, stdout=subprocess.PIPE)
  try:
    printed = process.stdout.readline()
    port = re.search(r" on http://127\.0\.0\.1:(\d+) ", printed)
    assert port, printed
    while not re.search("hub.load|hub_export.publish", printed):
      line = process.stdout.readline()
      assert line, printed
      printed += line
    yield int(port[1]), printed
  finally:
    process.terminate()
    process.wait(timeout=30)
    process.stdout.close()


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory) -> pathlib.Path:
  base = tmp_path_factory.mktemp("hub")
  root = base / "published"
  export_dir = tiny_export.make(base / "exports")
  tiny_export.write_attachments(export_dir)
  _publish(root, export_dir)
  (root / "local/tiny_classification/1.evaluations/own.txt").write_text(
      "secret")
  for suffix in (".SHA256SUMS", ".intoto.json", ".sig"):
    (root / f"local/tiny_classification/1{suffix}").write_text(suffix)
  (root / "local/tiny_classification/1.part").write_text("secret")
  tiny_export.write_collection(root)
  # Of nobody who has published anything.
  shutil.copytree(root / "local/collections", root / "other/collections")
  (base / "secret.tar.gz").write_text("secret")
  (base / "1.md").write_text("secret")
  # What "local/../1" would be, if it were taken for a handle.
  (root / "1").mkdir()
  for suffix in (".tar.gz", ".md", ".checks.json"):
    (root / f"1{suffix}").write_text("secret")
  return root


@pytest.fixture(name="port", scope="module")
def _port(root) -> Iterator[int]:
  with _serving(root) as (port, _):
    yield port


def _full(port: int, path: str, headers: dict[str, str] | None = None,
          method: str = "GET") -> tuple[int, dict[str, str], bytes]:
  """Returns status, headers and body; the path is sent as it is."""
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
  with contextlib.closing(connection):
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    return response.status, found, response.read()


def _ask(port: int, path: str, method: str = "GET"
         ) -> tuple[int, str | None, bytes]:
  """Returns status, content type and body; the path is sent as it is."""
  status, headers, body = _full(port, path, method=method)
  return status, headers.get("content-type"), body


@pytest.mark.parametrize("path", [
    _ARCHIVE, "/local/tiny_classification/1.tar.gz",
    "/local/tiny_classification/1.tar.gz?tf-hub-format=compressed"])
def test_archive(root, port, path):
  expected = (root / "local/tiny_classification/1.tar.gz").read_bytes()
  assert expected[:2] == b"\x1f\x8b"
  assert _ask(port, path) == (200, "application/gzip", expected)


@pytest.mark.parametrize("suffix, content_type", [
    (".md", "text/markdown; charset=utf-8"),
    (".checks.json", "application/json"),
    (".SHA256SUMS", "text/plain; charset=utf-8"),
    (".intoto.json", "application/json"), (".sig", "application/json")])
def test_what_lies_beside_the_module(root, port, suffix, content_type):
  path = f"local/tiny_classification/1{suffix}"
  assert _ask(port, f"/{path}") == (
      200, content_type, (root / path).read_bytes())


@pytest.mark.parametrize("path", [
    "/local/tiny_classification/1", "/local/tiny_classification/1.html"])
def test_page_of_a_model(root, port, path):
  status, content_type, body = _ask(port, path)
  assert (status, content_type) == (200, "text/html; charset=utf-8")
  page = body.decode()
  url = f"http://127.0.0.1:{port}/local/tiny_classification/1"
  # The inch marks stand escaped in HTML.
  assert f"hub.load(&#34;{url}&#34;)" in page
  archive = (root / "local/tiny_classification/1.tar.gz").read_bytes()
  assert hashlib.sha256(archive).hexdigest() in page
  labels = hashlib.sha256(b"cat\ndog\n").hexdigest()
  assert re.search(f"labels.<wbr>txt</th>.*{labels}", page)
  assert '<img src="1.evaluations/pets-test.reliability.png"' in page
  # Wilson's interval for 351 of 360.
  assert "97.50" in page and "95.32 to 98.68" in page


@pytest.mark.parametrize("suffix", ["", ".html"])
def test_page_of_a_collection(port, suffix):
  status, content_type, body = _ask(
      port, f"/local/collections/tiny/1{suffix}")
  assert (status, content_type) == (200, "text/html; charset=utf-8")
  page = body.decode()
  assert '<a href="../../../local/tiny_classification/1">local/tiny</a>' in page
  assert '<img src="1.multiply_adds.png" alt="Accuracy"' in page
  assert "secret" not in page
  for path in ("/", "/local/"):
    root = "" if path == "/" else "../"
    assert (f'href="{root}local/collections/tiny/1"'
            in _ask(port, path)[2].decode())


@pytest.mark.parametrize("name, content_type", [
    ("1.md", "text/markdown; charset=utf-8"),
    ("1.multiply_adds.png", "image/png")])
def test_files_of_a_collection(root, port, name, content_type):
  path = f"local/collections/tiny/{name}"
  assert _ask(port, f"/{path}") == (
      200, content_type, (root / path).read_bytes())


@pytest.mark.parametrize("name, content_type", [
    ("pets-test.reliability.png", "image/png"),
    ("pets-test.html", "text/html; charset=utf-8")])
def test_what_the_card_links_to(root, port, name, content_type):
  # Relative to the card's own address.
  link = f"1.evaluations/{name}"
  assert f"]({link})" in (root / "local/tiny_classification/1.md").read_text()
  assert _ask(port, f"/local/tiny_classification/{link}") == (
      200, content_type, (root / "local/tiny_classification" / link
                         ).read_bytes())


@pytest.mark.parametrize("path", [
    "1.evaluations/own.txt", "1.evaluations/none.png", "1.evaluations/",
    "1.evaluations/..%2f1.md", "1.evaluations/%2e%2e/1.md",
    "1.evaluations/../1.checks.json", "2.evaluations/pets-test.html",
    "../1.evaluations/pets-test.html"])
def test_nothing_else_of_an_evaluation(port, path):
  status, content_type, body = _ask(port, f"/local/tiny_classification/{path}")
  assert (status, content_type) == (404, "text/plain; charset=utf-8")
  assert not body.startswith(b"secret")


def test_index_lists_what_to_type(port):
  status, content_type, body = _ask(port, "/")
  assert (status, content_type) == (200, "text/html; charset=utf-8")
  assert ('<a href="local/tiny_classification/1">tiny_<wbr>classification</a>'
          in body.decode())
  # Whose it is, too: names alone may be anybody's.
  assert '<h2><a class="publisher" href="local/">local</a>/' in body.decode()
  assert b'class="publisher"' not in _ask(port, "/local/")[2]


@pytest.mark.parametrize("query, is_shown", [
    ("q=Tiny+CLASSIFICATION", True), ("q=tinyclass-if", True),
    ("q=tiny+eel", False), ("kind=feature_extractor", False),
    ("q=apache&kind=classifier&order=top1", True),
    ("kind=nonsense&order=nonsense", True),
    ("q=%3Cscript%3Ealert(1)%3C/script%3E", False)])
def test_search(port, query, is_shown):
  body = _ask(port, f"/?{query}")[2].decode()
  row = re.search(r"<li data-place=[^>]*>", body)[0]
  assert row.endswith(" hidden>") != is_shown
  assert f'<span id="shown">{int(is_shown)}</span> of 1 shown' in body
  assert "<script>" not in body


def test_json(root, port):
  base = f"http://127.0.0.1:{port}"
  status, content_type, body = _ask(port, "/api/v1/models.json")
  assert (status, content_type) == (200, "application/json")
  listed, = json.loads(body)["models"]
  assert listed["handle"] == "local/tiny_classification/1"
  assert listed["load_url"] == f"{base}/local/tiny_classification/1"
  assert listed["top1"] == {"value": 97.5, "low": 95.318, "high": 98.679,
                            "is_measured": True}
  status, content_type, body = _ask(
      port, listed["api_url"].removeprefix(base))
  assert (status, content_type) == (200, "application/json")
  one = json.loads(body)
  assert listed.items() <= one.items()
  files = {file["name"]: file for file in one["files"]}
  for name in ("1.tar.gz", "1.md", "1.sig",
               "1.evaluations/pets-test.worst.png"):
    content = (root / "local/tiny_classification" / name).read_bytes()
    assert files[name]["bytes"] == len(content)
    assert files[name]["sha256"] == hashlib.sha256(content).hexdigest()
    assert _ask(port, files[name]["url"].removeprefix(base))[2] == content
  assert {file["name"] for file in one["module_files"]} == {
      *tiny_export.FILES, "assets.extra/manifest.json"}


@pytest.mark.parametrize("name", [
    "local/tiny_classification/2", "../../1", "local/../1", ""])
def test_json_of_what_is_not_there(port, name):
  status, content_type, body = _ask(port, f"/api/v1/models/{name}.json")
  assert (status, content_type) == (404, "application/json")
  assert "is not published here" in json.loads(body)["error"]


@pytest.mark.parametrize("path, location", [
    ("/local", "local/"), ("/local/tiny_classification",
                           "tiny_classification/")])
def test_lists_have_addresses_that_end_with_a_slash(port, path, location):
  status, headers, _ = _full(port, path)
  assert (status, headers["location"]) == (307, location)
  for page in (f"{path}/", f"{path}/index.html"):
    status, content_type, body = _ask(port, page)
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert b"tiny_classification/1" in body


def test_the_query_is_kept_on_the_way_to_a_list(port):
  assert _full(port, "/local?q=t%20iny&kind=")[1]["location"] == (
      "local/?q=t%20iny&kind=")


@pytest.mark.parametrize("path", ["", "local", "local/tiny_classification"])
def test_addresses_may_be_whole(port, path):
  # As clients send them to a proxy; lists end with a slash.
  here = f"/{path}/" if path else "/"
  expected = _ask(port, here)
  assert expected[0] == 200
  assert _ask(port, f"http://127.0.0.1:{port}{here}") == expected
  assert _ask(port, f"http://127.0.0.1:{port}") == _ask(port, "/")


def test_hub_load_gets_an_archive_or_an_error(port):
  for path in ("/", "/local/", "/healthz", "/api/v1/models.json",
               "/_site/site.css", "/local/collections/tiny/1",
               "/local/tiny_classification"):
    status, content_type, body = _ask(
        port, f"{path}?tf-hub-format=compressed")
    assert (status, content_type) == (404, "text/plain; charset=utf-8")
    newest = b"Its newest version is local/tiny_classification/1\n"
    assert body.endswith(newest) == (path == "/local/tiny_classification")


def test_conditions_and_parts_that_do_not_count(root, port):
  expected = (root / "local/tiny_classification/1.tar.gz").read_bytes()
  # A part of nothing at all is nothing.
  status, headers, _ = _full(port, _ARCHIVE, {"Range": "bytes=0-4"}, "HEAD")
  assert (status, headers["content-length"]) == (200, str(len(expected)))
  assert "content-range" not in headers
  for path in (_ARCHIVE, "/"):
    etag = _full(port, path)[1]["etag"]
    assert _full(port, path, {"If-Match": etag})[0] == 200
    status, headers, body = _full(port, path, {"If-Match": '"x"'})
    assert (status, body, headers["cache-control"]) == (412, b"", "no-store")
  assert _full(port, _ARCHIVE, {"Range": f"bytes={len(expected)}-"}
               )[1]["cache-control"] == "no-store"
  assert "content-encoding" not in _full(
      port, "/", {"Accept-Encoding": "gzip;q=0"})[1]


def test_parts_of_the_archive(root, port):
  expected = (root / "local/tiny_classification/1.tar.gz").read_bytes()
  size = len(expected)
  status, headers, body = _full(port, _ARCHIVE)
  assert headers["accept-ranges"] == "bytes"
  etag = headers["etag"]
  for wanted, start, end in (("bytes=5-9", 5, 10), ("bytes=7-", 7, size),
                             ("bytes=-3", size - 3, size),
                             (f"bytes=0-{size + 5}", 0, size)):
    status, headers, body = _full(port, _ARCHIVE, {
        "Range": wanted, "If-Range": etag})
    assert (status, body) == (206, expected[start:end])
    assert headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    assert headers["content-length"] == str(end - start)
  # Of another file's tag, the whole.
  status, _, body = _full(port, _ARCHIVE, {
      "Range": "bytes=5-9", "If-Range": '"other"'})
  assert (status, body) == (200, expected)
  status, headers, body = _full(port, _ARCHIVE, {"Range": f"bytes={size}-"})
  assert (status, headers["content-range"], body) == (
      416, f"bytes */{size}", b"")


@pytest.mark.parametrize("path", [
    _ARCHIVE, "/local/tiny_classification/1", "/", "/_site/site.css",
    "/api/v1/models.json"])
def test_what_the_client_has_is_not_sent_again(port, path):
  for encoding in ("identity", "gzip"):
    sent = {"Accept-Encoding": encoding}
    status, headers, body = _full(port, path, sent)
    assert status == 200 and body
    again = _full(port, path, {**sent, "If-None-Match":
                               f'"x", {headers["etag"]}'})
    assert (again[0], again[2]) == (304, b"")
    assert again[1]["etag"] == headers["etag"]
    assert _full(port, path, {**sent, "If-None-Match": '"x"'})[2] == body


def test_pages_are_compressed_for_who_takes_it(port):
  status, headers, body = _full(port, "/local/tiny_classification/1",
                                {"Accept-Encoding": "br, gzip"})
  plain = _full(port, "/local/tiny_classification/1")
  assert headers["content-encoding"] == "gzip"
  assert headers["vary"] == plain[1]["vary"] == "accept-encoding"
  assert headers["etag"] != plain[1]["etag"]
  assert gzip.decompress(body) == plain[2]
  assert len(body) < len(plain[2]) / 2
  # An archive is as it is, whatever is asked.
  assert "content-encoding" not in _full(
      port, _ARCHIVE, {"Accept-Encoding": "gzip"})[1]


def test_pages_run_nothing_but_the_site_s_own(port):
  for path in ("/", "/local/tiny_classification/1"):
    policy = _full(port, path)[1]["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; "
                             "script-src 'self'; img-src 'self';")
    assert "frame-ancestors 'none'" in policy
  # A page that came with a model may run its script, without any rights.
  assert _full(port, "/local/tiny_classification/1.evaluations/pets-test.html"
               )[1]["content-security-policy"] == "sandbox allow-scripts"


def test_browsers_are_told_in_html_what_is_missing(port):
  status, headers, body = _full(port, "/<b>/x", {"Accept": "text/html"})
  assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
  assert b"<b>" not in body and b"&lt;b&gt;/x is not published here" in body


def test_links_out_of_the_directory_are_not_followed(tmp_path):
  root = tmp_path / "published"
  _publish(root, tiny_export.make(tmp_path / "exports"))
  (tmp_path / "secret").write_text("secret")
  card = root / "local/tiny_classification/1.sig"
  card.symlink_to(tmp_path / "secret")
  with _serving(root) as (port, _):
    assert _ask(port, "/local/tiny_classification/1.sig")[0] == 404
    assert b"1.sig" not in _ask(port, "/local/tiny_classification/1")[2]


def test_altered_files_are_not_sent(tmp_path):
  root = tmp_path / "published"
  _publish(root, tiny_export.make(tmp_path / "exports"))
  archive = root / "local/tiny_classification/1.tar.gz"
  right = hashlib.sha256(archive.read_bytes()).hexdigest()
  archive.with_name("1.SHA256SUMS").write_text(f"{right}  1.tar.gz\n")
  with _serving(root) as (port, _):
    assert _ask(port, _ARCHIVE)[0] == 200
    assert b"does not match" not in _ask(
        port, "/local/tiny_classification/1")[2]
    stat = archive.stat()
    archive.write_bytes(bytes(stat.st_size))
    os.utime(archive, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for path in (_ARCHIVE, "/local/tiny_classification/1.tar.gz"):
      status, _, body = _ask(port, path)
      assert status == 503
      assert b"1.tar.gz does not match 1.SHA256SUMS; expected" in body
    page = _ask(port, "/local/tiny_classification/1")[2].decode()
    # The card tells it as it was published; no list of what is sent here does.
    card = archive.with_name("1.md").read_text()
    assert page.count(right) == card.count(right) > 0
    assert "does not match SHA256SUMS" in page and "were altered" in page
    files = json.loads(_ask(port, "/api/v1/models/local/tiny_classification/"
                            "1.json")[2])["files"]
    assert {file["name"]: file["is_as_listed"] for file in files} == {
        "1.tar.gz": False, "1.md": None, "1.checks.json": None,
        "1.SHA256SUMS": None}


def test_models_that_did_not_pass_are_said_so(tmp_path):
  root = tmp_path / "published"
  _publish(root, tiny_export.make(tmp_path / "exports"))
  report = root / "local/tiny_classification/1.checks.json"
  passing = report.read_text()
  with _serving(root) as (port, _):
    for text, is_good in ((passing, True), ("{}", False), (
        passing.replace('"status": "passed"', '"status": "failed"'), False)):
      report.write_text(text)
      for path, claim, warning in (
          ("/", b"Every model here passed", b"checks not passed</span>"),
          ("/local/tiny_classification/1", b"This model passed",
           b"Do not rely on this model.")):
        page = _ask(port, path)[2]
        assert (claim in page) == is_good
        assert (warning in page) != is_good


def test_who_a_client_is_is_only_believed_of_trusted_proxies(root, tmp_path):
  log = tmp_path / "access.log"
  said = {"X-Forwarded-For": "a" * 5000, "X-Forwarded-Proto": "https",
          "Host": "h"}
  for number, (flags, client, scheme) in enumerate((
      ([], "127.0.0.1", "http"),
      (["--trusted_proxy=192.0.2.0/24"], "127.0.0.1", "http"),
      (["--trusted_proxy=10.0.0.1,127.0.0.1"], "a" * 300, "https")), 1):
    with _serving(root, f"--access_log={log}", *flags) as (port, _):
      listed, = json.loads(_full(port, "/api/v1/models.json", said)[2]
                           )["models"]
      _wait_for_lines(log, number)
    assert listed["load_url"].startswith(f"{scheme}://h/")
    assert json.loads(log.read_text().splitlines()[-1])["client"] == client


def test_access_log(tmp_path):
  root, log = tmp_path / "published", tmp_path / "access.log"
  _publish(root, tiny_export.make(tmp_path / "exports"))
  size = (root / "local/tiny_classification/1.tar.gz").stat().st_size
  with _serving(root, f"--access_log={log}") as (port, _):
    _full(port, _ARCHIVE, {"Range": "bytes=0-9", "User-Agent": 'a"\u00e9b'})
    _wait_for_lines(log, 1)  # They come after the answer.
    log.rename(tmp_path / "access.log.1")  # As logrotate does.
    _full(port, "/%0Anothing?q=1")
    _full(port, _ARCHIVE)
    _wait_for_lines(log, 2)
  first, = (tmp_path / "access.log.1").read_text().splitlines()
  first = json.loads(first)
  assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
                      first.pop("time"))
  assert 0 <= first.pop("seconds") < 60
  assert first == {
      "client": "127.0.0.1", "method": "GET",
      "path": "/local/tiny_classification/1",
      "query": "tf-hub-format=compressed", "status": 206, "bytes": 10,
      "complete": True, "range": "bytes=0-9", "user_agent": 'a"\u00e9b'}
  second, third = map(json.loads, log.read_text().splitlines())
  assert (second["path"], second["status"]) == ("/\nnothing", 404)
  assert (third["status"], third["bytes"]) == (200, size)


def _wait_for_lines(path, count):
  deadline = time.monotonic() + 30
  while not path.exists() or path.read_text().count("\n") < count:
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_too_many_connections_are_refused(root):
  with _serving(root, "--max_connections=3") as (port, _):
    with contextlib.ExitStack() as stack:
      for _ in range(2):
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
      # The server has to have taken them: it answers on a third.
      deadline = time.monotonic() + 30
      while (status := _ask(port, "/healthz")[0]) == 200:
        assert time.monotonic() < deadline
      assert status == 503
    deadline = time.monotonic() + 30
    while (status := _ask(port, "/healthz")[0]) == 503:
      assert time.monotonic() < deadline
    assert status == 200


def test_base_url_stands_on_pages(tmp_path):
  root = tmp_path / "published"
  _publish(root, tiny_export.make(tmp_path / "exports"))
  with _serving(root, "--base_url=https://models.example.org/hub/"
                ) as (port, printed):
    assert ('hub.load("https://models.example.org/hub/local/'
            'tiny_classification/1")') in printed
    assert (b"https://models.example.org/hub/local/tiny_classification/1&#34;"
            in _ask(port, "/local/tiny_classification/1")[2])


@pytest.mark.parametrize("host, shown", [
    (b"models.example.org:81", b"http://models.example.org:81/local"),
    (b"[::1]:81", b"http://[::1]:81/local"),
    # No host at all: the address that is listened on stands in for it.
    (b"a&lt;b", b"http://127.0.0.1:"), (b"<script>", b"http://127.0.0.1:"),
    (b'h";rm', b"http://127.0.0.1:"), (b"[zz", b"http://127.0.0.1:")])
def test_only_hosts_stand_on_pages(port, host, shown):
  with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
    s.sendall(b"GET /local/tiny_classification/1 HTTP/1.1\r\nHost: " + host
              + b"\r\nConnection: close\r\n\r\n")
    answer = b""
    while block := s.recv(1 << 16):
      answer += block
  assert shown in answer
  assert host in shown or host not in answer


def test_healthz(port):
  assert _ask(port, "/healthz") == (
      200, "text/plain; charset=utf-8", b"ok\n")


@pytest.mark.parametrize("path", [
    _ARCHIVE, "/local/tiny_classification/1", "/", "/healthz"])
def test_head_has_the_headers_alone(port, path):
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
  with contextlib.closing(connection):
    connection.request("GET", path)
    full = connection.getresponse()
    length = len(full.read())
    connection.request("HEAD", path)
    head = connection.getresponse()
    assert head.read() == b""
    assert head.status == 200
    assert int(head.getheader("content-length")) == length > 0
    assert head.getheader("content-type") == full.getheader("content-type")


@pytest.mark.parametrize("path", [
    "/local/tiny_classification/2", "/local/tiny_classification/2.tar.gz",
    "/local/tiny_classification/2?tf-hub-format=compressed",
    "/other/tiny_classification/1", "/local/collections/tiny/2",
    "/local/collections/else/1", "/local/collections/tiny/1.other.png",
    "/other/collections/tiny/1", "/other/collections/tiny/1.md"])
def test_unpublished(port, path):
  status, content_type, body = _ask(port, path)
  assert (status, content_type) == (404, "text/plain; charset=utf-8")
  assert b"is not published here" in body
  assert f"http://127.0.0.1:{port}/".encode() in body


@pytest.mark.parametrize("path", [
    "/favicon.ico", "/%0a", "/healthz%0a", "/local/%0a", "/_site/site.css%0a",
    "/local/tiny_classification/1%0a", "/local/tiny_classification/1.md%0a",
    "/local/tiny_classificationindex.html", "localhost", "//", "//local/",
    "/local//", "/_site/../1.md",
    "/_site/pages.py", "/-/-/-/",
    "/local/tiny_classification/01", "/local/tiny_classification/1/",
    "/local/tiny_classification/1/saved_model.pb",
    "/local/tiny_classification/1.part", "/local/tiny_classification/1.",
    "/local/tiny_classification/.publish.lock", "/local/.publish.lock",
    "/local/tiny_classification/1.evaluations",
    "/local/collections/tiny/.collection.lock", "/local/collections/../1.md",
    "/local/collections/%2e%2e/1", "/local/collections/..%2f../1.md",
    "/local/tiny_classification/%D9%A1",
    "/local/tiny_classification/" + "9" * 5000,
    "/local/" + "a" * 5000 + "/1",
    "/../secret", "/../1", "/../../etc/passwd", "/%2e%2e/1", "/local/../1",
    "/local/../../1", "/local/%2e%2e/1", "/local/..%2f..%2f/1", "/../../1.md",
    "/local/tiny_classification/../../../secret.tar.gz",
    "/local/tiny_classification/1%00.tar.gz", "/%2e%2e%2fsecret.tar.gz"])
@pytest.mark.parametrize("query", ["", "?tf-hub-format=compressed"])
def test_no_way_out_of_the_handles(port, path, query):
  status, content_type, body = _ask(port, path + query)
  assert (status, content_type) == (404, "text/plain; charset=utf-8")
  assert b"root:" not in body and not body.startswith(b"secret")


def test_other_formats_are_refused_with_the_reason(port):
  status, _, body = _ask(
      port, "/local/tiny_classification/1?tf-hub-format=uncompressed")
  assert status == 400
  assert b"expected compressed. Unset TFHUB_MODEL_LOAD_FORMAT." in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_only_reads(root, port, method):
  before = tiny_export.tree(root)
  assert _ask(port, "/local/tiny_classification/1", method)[0] == 405
  assert tiny_export.tree(root) == before


def test_half_published_models_are_not_there_and_later_ones_are(tmp_path):
  root = tmp_path / "published"
  export_dir = tiny_export.make(tmp_path / "exports")
  root.mkdir()
  with _serving(root) as (port, printed):
    assert "Nothing is published there yet" in printed
    _publish(tmp_path / "full", export_dir)
    (root / "local").mkdir()
    (tmp_path / "full/local/tiny_classification").rename(
        root / "local/tiny_classification")
    module_dir = root / "local/tiny_classification/1"
    module_dir.rename(module_dir.with_name(".publishing-1"))
    assert _ask(port, _ARCHIVE)[0] == 404
    assert _ask(port, "/local/tiny_classification/1")[0] == 404
    assert b"None yet" in _ask(port, "/")[2]
    module_dir.with_name(".publishing-1").rename(module_dir)
    assert _ask(port, _ARCHIVE)[0] == 200
    assert b"tiny_classification" in _ask(port, "/")[2]


def test_an_export_that_is_not_published_is_not_served(tmp_path):
  tiny_export.make(tmp_path / "exports")
  with _serving(tmp_path / "exports") as (port, printed):
    assert "Nothing is published there yet" in printed
    assert _ask(port, "/local/tiny_classification/1")[0] == 404


class TestProgram:

  def test_start_says_what_to_type(self, root):
    with _serving(root) as (port, printed):
      assert printed == (
          f"serving {root}/ on http://127.0.0.1:{port} (Ctrl-C stops it)\n"
          "Published:\n  local/tiny_classification/1\nLoad one with:\n"
          f'  hub.load("http://127.0.0.1:{port}/local/tiny_classification/1")'
          "\n")

  def test_interrupted_it_exits_cleanly(self, root):
    process = subprocess.Popen(
        [*_COMMAND, f"--root={root}", "--port=0"], env=_ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    port = int(re.search(r":(\d+) ", process.stdout.readline())[1])
    assert _ask(port, "/healthz")[0] == 200
    process.send_signal(signal.SIGINT)
    printed, complaints = process.communicate(timeout=30)
    assert process.returncode == 0
    assert printed.endswith("stopped\n")
    request, = complaints.splitlines()
    assert json.loads(request)["path"] == "/healthz"

  def test_port_in_use(self, root, port):
    done = self._fails(f"--root={root}", f"--port={port}")
    assert done.returncode == 1
    assert done.stderr == (
        f"serve: cannot listen on 127.0.0.1:{port} (Address already in use); "
        "expected a free port of this machine. Choose another --port; 0 takes "
        "any free one.\n")

  def test_foreign_address(self, root):
    # TEST-NET-1 of RFC 5737: no machine has it.
    done = self._fails(f"--root={root}", "--port=0", "--host=192.0.2.1")
    assert done.returncode == 1
    assert done.stderr.startswith("serve: cannot listen on 192.0.2.1:0 (")

  def test_unknown_host(self, root):
    # RFC 6761: names below .invalid exist nowhere.
    done = self._fails(f"--root={root}", "--port=0", "--host=a.invalid")
    assert done.returncode == 1
    assert done.stderr.startswith("serve: cannot listen on a.invalid:0 (")
    assert "Traceback" not in done.stderr

  def test_missing_root(self, tmp_path):
    done = self._fails(f"--root={tmp_path}/none")
    assert done.returncode == 1
    assert done.stderr == (
        f"serve: {tmp_path}/none is not a directory; expected one that was "
        "published to. Publish a model first: python -m hub_export.publish "
        f"--export_dir=PATH --to={tmp_path}/none\n")

  def test_root_that_cannot_be_read(self, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for root, reason in ((tmp_path / ("a" * 300), "File name too long"),
                         (tmp_path / "loop",
                          "Too many levels of symbolic links")):
      done = self._fails(f"--root={root}", "--port=0")
      assert done.returncode == 1
      assert done.stderr == (
          f"serve: {root} cannot be read ({reason}); expected a directory that "
          "was published to. Make it readable or choose another --root.\n")

  def test_root_without_the_right_to_read(self, tmp_path):
    # A superuser may read all, so the system's answer is put in.
    denied = ("import errno, os, sys; from hub_export import program, serve\n"
              "def listdir(path):\n"
              "  raise PermissionError(errno.EACCES, 'Permission denied')\n"
              "os.listdir = listdir; program.run(serve.main)")
    done = subprocess.run(
        [sys.executable, "-c", denied, f"--root={tmp_path}", "--port=0"],
        env=_ENVIRONMENT, text=True, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert f"{tmp_path} cannot be read (Permission denied)" in done.stderr
    assert "Traceback" not in done.stderr

  @pytest.mark.parametrize("flags, fault", [
      ([], "--root"), (["--root=x", "--port=65536"], "port"),
      (["--root=x", "--port=http"], "port"),
      (["--root=x", "--base_url=models.example.org"], "base_url"),
      (["--root=x", '--base_url=http://a"b'], "base_url"),
      (["--root=x", "--static_dir=y"], "--base_url"),
      (["--root=x", "--trusted_proxy=*"], "--trusted_proxy"),
      (["--root=x", "--tls"], "tls")])
  def test_wrong_usage(self, flags, fault):
    done = self._fails(*flags)
    assert done.returncode == 2
    assert fault in done.stderr
    assert "Traceback" not in done.stderr

  def _fails(self, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([*_COMMAND, *flags], env=_ENVIRONMENT, text=True,
                          capture_output=True, timeout=60)


def test_hub_load_of_a_real_model(tmp_path, monkeypatch):
  # Slow to import, and nothing else here needs them.
  import tensorflow as tf
  import tensorflow_hub as hub

  class Scale(tf.Module):

    def __init__(self):
      super().__init__()
      self.factor = tf.Variable([2.0, -3.0])
      labels = tmp_path / "labels.txt"
      labels.write_text("cat\ndog\n")
      self.labels = tf.saved_model.Asset(str(labels))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    def __call__(self, x):
      return x * self.factor

  tf.saved_model.save(Scale(), str(tmp_path / "model"))
  files = {name: content
           for name, content in tiny_export.tree(tmp_path / "model").items()
           if content is not None}
  assert "assets/labels.txt" in files
  _publish(tmp_path / "published",
           tiny_export.make(tmp_path / "exports", files=files))
  monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
  monkeypatch.delenv("TFHUB_MODEL_LOAD_FORMAT", raising=False)
  with _serving(tmp_path / "published") as (port, _):
    model = hub.load(f"http://127.0.0.1:{port}/local/tiny_classification/1")
  # 2 * 5 and -3 * 7, exact in float32.
  assert model(tf.constant([[5.0, 7.0]])).numpy().tolist() == [[10.0, -21.0]]
  assert pathlib.Path(
      model.labels.asset_path.numpy().decode()).read_text() == "cat\ndog\n"
  cached, = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
  assert tiny_export.tree(cached) == tiny_export.tree(
      tmp_path / "exports/local/tiny_classification/1")
