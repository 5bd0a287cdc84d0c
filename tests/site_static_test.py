"""Tests of the site written out as files, as a plain file server serves it."""

import functools
import http.server
import json
import os
import pathlib
import posixpath
import re
import subprocess
import sys
import threading
import urllib.request

import pytest

from hub_export import errors
from hub_export import releases
from hub_export.destinations import directory
from hub_export.site import models
from hub_export.site import site
from hub_export.site import static
from tests import tiny_export

_BASE = "https://models.example.org/hub"


@pytest.fixture(name="place")
def _place(tmp_path):
  for version in (1, 2):
    export_dir = tiny_export.make(
        tmp_path / "exports", f"local/tiny_classification/{version}")
    tiny_export.write_attachments(export_dir)
    directory.Directory(tmp_path / "root").put(releases.read(export_dir))
  tiny_export.write_collection(tmp_path / "root")
  return models.Published(tmp_path / "root"), tmp_path / "site"


def _files(site_dir: pathlib.Path) -> set[str]:
  return {name for name, content in tiny_export.tree(site_dir).items()
          if content is not None}


def test_what_is_written(place):
  published, site_dir = place
  outcome = static.write(published, site_dir, _BASE)
  beside = {
      f"local/tiny_classification/{v}{suffix}" for v in (1, 2) for suffix in (
          ".tar.gz", ".md", ".checks.json", ".html",
          ".evaluations/pets-test.reliability.png",
          ".evaluations/pets-test.classes.png",
          ".evaluations/pets-test.worst.png", ".evaluations/pets-test.html")}
  beside |= {f"local/collections/tiny/1{suffix}" for suffix in (
      ".md", ".html", ".multiply_adds.png")}
  assert _files(site_dir) == beside | {
      "index.html", "404.html", "local/index.html",
      "local/tiny_classification/index.html", "api/v1/models.json",
      "api/v1/models/local/tiny_classification/1.json",
      "api/v1/models/local/tiny_classification/2.json",
      "_site/site.css", "_site/site.js", "_site/icon.svg", ".site_files"}
  assert outcome == static.Outcome(len(_files(site_dir)) - 1, 0, 0)
  for name in beside - {"local/tiny_classification/1.html",
                        "local/tiny_classification/2.html",
                        "local/collections/tiny/1.html"}:
    assert (site_dir / name).read_bytes() == (
        published.root / name).read_bytes()


def test_every_link_leads_to_a_file(place):
  published, site_dir = place
  static.write(published, site_dir, _BASE)
  found = 0
  for path in site_dir.rglob("*.html"):
    if ".evaluations" in str(path) or path.name == "404.html":
      continue
    here = path.relative_to(site_dir).parent.as_posix()
    for link in re.findall(r'(?:href|src)="([^"#:?]+)["?#]', path.read_text()):
      found += 1
      assert (site_dir / posixpath.normpath(
          posixpath.join(here, link))).is_file(), (path, link)
  assert found > 50
  # An error's page is shown at any address.
  links = re.findall(r'(?:href|src)="([^"#]+)"',
                     (site_dir / "404.html").read_text())
  assert links and all(link.startswith(f"{_BASE}/") for link in links)


def test_a_file_server_is_enough_for_hub_load(place):
  published, site_dir = place
  handler = functools.partial(
      http.server.SimpleHTTPRequestHandler, directory=site_dir)
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    static.write(published, site_dir, base)
    with urllib.request.urlopen(f"{base}/api/v1/models.json") as answer:
      listed = json.load(answer)["models"]
    # hub.load adds the parameter to whatever address it is given.
    with urllib.request.urlopen(
        listed[0]["load_url"] + "?tf-hub-format=compressed") as answer:
      archive = answer.read()
    server.shutdown()
  assert listed[0]["handle"] == "local/tiny_classification/2"
  assert archive == (
      published.root / "local/tiny_classification/2.tar.gz").read_bytes()
  page = (site_dir / "local/tiny_classification/2.html").read_text()
  assert f"hub.load(&#34;{listed[0]['load_url']}&#34;)" in page


def test_a_second_run_does_what_is_left_to_do(place):
  published, site_dir = place
  first = static.write(published, site_dir, _BASE)
  before = {path: path.stat().st_mtime_ns for path in site_dir.rglob("*")
            if path.is_file()}
  assert static.write(published, site_dir, _BASE) == static.Outcome(
      0, first.written, 0)
  assert before == {path: path.stat().st_mtime_ns for path in
                    site_dir.rglob("*") if path.is_file()}
  # Damaged, and lost.
  archive = site_dir / "local/tiny_classification/1.tar.gz"
  archive.write_bytes(b"\0" * archive.stat().st_size)
  (site_dir / "index.html").unlink()
  assert static.write(published, site_dir, _BASE).written == 2
  assert archive.read_bytes() == (
      published.root / "local/tiny_classification/1.tar.gz").read_bytes()


def test_what_is_no_longer_published_goes_and_nothing_else(place):
  published, site_dir = place
  static.write(published, site_dir, _BASE)
  (site_dir / "own.txt").write_text("mine")
  victim = site_dir.parent / "victim"
  victim.write_text("mine")
  with open(site_dir / ".site_files", "a") as f:
    f.write(f"../victim\n{victim}\n")
  for path in sorted((published.root / "local/tiny_classification").glob(
      "1.*")):
    if path.is_file():
      path.unlink()
  assert static.write(published, site_dir, _BASE).removed == 9
  assert not list((site_dir / "local/tiny_classification").glob("1*"))
  assert (site_dir / "local/tiny_classification/2.html").is_file()
  assert (site_dir / "own.txt").is_file() and victim.is_file()


def test_a_directory_of_something_else_is_left_alone(place):
  published, site_dir = place
  site_dir.mkdir()
  (site_dir / "thesis.tex").write_text("mine")
  with pytest.raises(errors.UsageError, match="such as thesis.tex; expected"):
    static.write(published, site_dir, _BASE)
  assert _files(site_dir) == {"thesis.tex"}


@pytest.mark.parametrize("inside", ["root", "root/site", "."])
def test_not_into_what_is_published(place, inside):
  published, site_dir = place
  before = tiny_export.tree(published.root)
  with pytest.raises(errors.UsageError, match="lie in each other"):
    static.write(published, site_dir.parent / inside, _BASE)
  assert tiny_export.tree(published.root) == before


def test_altered_files_are_not_written(place):
  published, site_dir = place
  static.write(published, site_dir, _BASE)
  before = tiny_export.tree(site_dir)
  archive = published.root / "local/tiny_classification/1.tar.gz"
  sums = archive.with_name("1.SHA256SUMS")
  sums.write_text(f"{'ab' * 32}  1.tar.gz\n")
  with pytest.raises(errors.HubExportError,
                     match=r"SHA256SUMS:\n  local/tiny_classification/1.tar"):
    static.write(published, site_dir, _BASE)
  assert tiny_export.tree(site_dir) == before


def test_a_killed_run_is_finished_by_the_next(place, monkeypatch):
  published, site_dir = place
  moves = []
  replace = os.replace

  def die(source, target):
    moves.append(target)
    if len(moves) == 8:
      raise KeyboardInterrupt
    replace(source, target)

  monkeypatch.setattr(os, "replace", die)
  with pytest.raises(KeyboardInterrupt):
    static.write(published, site_dir, _BASE)
  monkeypatch.undo()
  # What lists the models comes last.
  assert len(_files(site_dir)) == 7
  assert not (site_dir / "index.html").exists()
  whole = site_dir.parent / "whole"
  static.write(published, whole, _BASE)
  static.write(published, site_dir, _BASE)
  assert tiny_export.tree(site_dir) == tiny_export.tree(whole)


def test_nginx_lines_of_the_readme():
  """The expressions that they match by; nginx's are as Python's here."""
  lines = (pathlib.Path(__file__).absolute().parents[1] / "README.md"
          ).read_text("utf-8").split("```nginx\n")[1].split("```")[0]
  handles = re.search(r"location ~ (\^.*) \{", lines)[1]
  for path, is_handle in (
      ("/local/regnety1.6gf_classification/12", True), ("/my-lab/a-b/1", True),
      ("/local/tiny/1.html", False), ("/local/tiny/1.tar.gz", False),
      ("/local/tiny/", False), ("/local/tiny/01", False),
      ("/api/v1/models.json", False), ("/_site/site.css", False),
      ("/local/a/b/1", False)):
    assert bool(re.search(handles, path)) == is_handle, path
  others = re.search(r"location ~ (\S*)\$ \{\n +add_header Access-Control-Allow-"
                     r"Origin \* always;\n +add_header X-Content-Type-Options "
                     "nosniff always;", lines)[1]
  for path, is_own in (
      ("/local/tiny_tfjs/1/model.json", True), ("/api/v1/models.json", False),
      ("/local/tiny_tfjs/12/group1-shard1of3.bin", True),
      ("/api/v1/models/local/tiny/1.json", False),
      ("/local/tiny/1.checks.json", False)):
    assert bool(re.fullmatch(f".*{others}", path)) == is_own, path
  query, lite = re.findall(r"if \(\$args ~ (.*)\) \{", lines)
  assert "{ rewrite ^ $uri/model.tflite last; }" in lines
  assert re.search(lite, "a=b&lite-format=tflite")
  assert not re.search(lite, "xlite-format=tflite")
  for arguments, is_load in (
      ("tf-hub-format=compressed", True),
      ("a=b&tf-hub-format=compressed", True),
      ("tf-hub-format=compressed&a=b", True), ("", False),
      ("tf-hub-format=uncompressed", False),
      ("xtf-hub-format=compressed", False)):
    assert bool(re.search(query, arguments)) == is_load, arguments
  pages = re.search(r"location ~ (\S*html\$) \{(.*?)\}", lines, re.DOTALL)
  assert re.search(pages[1], "/local/tiny/1.evaluations/a.html")
  assert not re.search(pages[1], "/local/tiny/1.html")
  # nginx passes headers on only to places that add none of their own.
  for place in (lines.split("location")[0], pages[2]):
    assert "add_header X-Content-Type-Options nosniff always;" in place
  assert (f'Content-Security-Policy "{site.EVALUATION_POLICY}" always;'
          in pages[2])
  assert re.search(r"charset_types .*\btext/markdown\b", lines)
  types = dict(re.findall(r"(\w+/[\w+-]+) (\w[\w ]*);", lines))
  for suffix, _, media_type in models.SIDE_FILES:
    assert suffix.rpartition(".")[2] in types[media_type.split(";")[0]].split()


def test_program(place):
  published, site_dir = place
  environment = {
      **{k: v for k, v in os.environ.items()
         if k != "BUILD_WORKING_DIRECTORY"},
      "PYTHONPATH": os.pathsep.join(sys.path)}
  done = subprocess.run(
      [sys.executable, "-m", "hub_export.serve", f"--root={published.root}",
       f"--static_dir={site_dir}", f"--base_url={_BASE}/"], env=environment,
      text=True, capture_output=True, timeout=120)
  assert (done.returncode, done.stderr) == (0, "")
  count = len(_files(site_dir)) - 1
  assert done.stdout == (
      f"{site_dir}/: {count} files written, 0 unchanged, 0 removed\n"
      f"It is to appear at {_BASE}/\n")
