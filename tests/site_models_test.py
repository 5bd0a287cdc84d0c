"""Tests of what the site knows of models: records, search, order, hashes."""

import collections
from concurrent import futures
import hashlib
import json
import os
import pathlib
import threading

import pytest

from hub_export import export_dirs
from hub_export import releases
from hub_export.destinations import directory
from hub_export.site import cards
from hub_export.site import formats
from hub_export.site import hashes
from hub_export.site import models
from hub_export.site import pages
from hub_export.site import search
from hub_export.site import site
from tests import tiny_export

_NAMES = ("local/tiny_classification/1", "local/tiny_classification/2",
          "my-lab/big_feature_extractor/1")


@pytest.fixture(name="published", scope="module")
def _published(tmp_path_factory):
  base = tmp_path_factory.mktemp("models")
  for handle in _NAMES:
    directory.Directory(base / "root").put(
        releases.read(tiny_export.make(base / "exports", handle)))
  return models.Published(base / "root")


def _handle(index: int) -> export_dirs.Handle:
  return export_dirs.parse_handle(_NAMES[index])


def test_a_record(published):
  model = published.model(_handle(0))
  assert (model.title, model.kind, model.dataset, model.licence) == (
      "A tiny classifier", "classifier", "pets", "apache-2.0")
  assert (model.parameters, model.multiply_adds, model.image_size_px,
          model.num_outputs) == (4096, 123456, 48, 2)
  assert model.top1 == models.Accuracy(97.5, 95.318, 98.679, True)
  assert model.top5 is None and not model.is_demo
  assert (model.status, model.checked) == ("passed", "2026-11-21T10:50:00Z")
  assert model.archive_bytes == os.path.getsize(
      published.root / f"{_NAMES[0]}.tar.gz")


def test_the_newest_version_of_each_model(published):
  assert [(str(model.handle), count)
          for model, count in models.newest(published.models())] == [
              (_NAMES[1], 2), (_NAMES[2], 1)]


def test_what_is_renewed_is_read_again(published):
  path = published.root / f"{_NAMES[1]}.checks.json"
  report = json.loads(path.read_text())
  assert published.model(_handle(1)).status == "passed"
  path.write_text(json.dumps(report | {"status": "failed!"}))
  assert published.model(_handle(1)).status == "failed!"
  path.write_text(json.dumps(report))


@pytest.mark.parametrize("manifest, report", [
    ("", ""), ("[]", "null"), ("{", '"'), ("[" * 100_000, "\xff"),
    ('{"card": 7, "kind": [], "dataset": "x", "parameters": {"trainable": '
     'true}, "multiply_adds": {"count": "9"}, "is_demo": "yes"}',
     '{"metrics": {"top1": {"value": NaN}, "top5": []}, "status": 3}'),
    ('{"reported_accuracy": {"top1": Infinity}}', '{"metrics": null}'),
    # Too large for a float; too small for a count.
    (f'{{"parameters": {{"trainable": 1{"0" * 400}}}, "multiply_adds": '
     '{"count": -1}, "reported_accuracy": {"top1": 1%s}}' % ("0" * 400),
     f'{{"metrics": {{"top1": {{"value": 1{"0" * 400}}}}}}}')])
def test_strange_files_leave_a_record_of_what_is_known(
    tmp_path, manifest, report):
  directory.Directory(tmp_path / "root").put(
      releases.read(tiny_export.make(tmp_path / "exports")))
  module_dir = tmp_path / "root" / _NAMES[0]
  (module_dir / export_dirs.MANIFEST).write_text(manifest, "latin-1")
  export_dirs.report_path(module_dir).write_text(report, "latin-1")
  model, = models.Published(tmp_path / "root").models()
  assert str(model.handle) == _NAMES[0]
  assert model.title == "tiny_classification"
  assert (model.kind, model.parameters, model.multiply_adds, model.top1,
          model.top5, model.dataset, model.status, model.is_demo) == (
              None, None, None, None, None, None, None, False)


def _published_to(directory_path: pathlib.Path, handle: str = _NAMES[0]
                  ) -> models.Published:
  directory.Directory(directory_path / "root").put(
      releases.read(tiny_export.make(directory_path / "exports", handle)))
  return models.Published(directory_path / "root")


def test_one_that_is_strange_hides_no_other(tmp_path, monkeypatch, caplog):
  _published_to(tmp_path, _NAMES[2])
  published = _published_to(tmp_path)
  model = published.model
  monkeypatch.setattr(published, "model", lambda handle: (
      1 / 0 if str(handle) == _NAMES[0] else model(handle)))
  assert [str(found.handle) for found in published.models()] == [_NAMES[2]]
  assert f"{_NAMES[0]} is left out" in caplog.text


@pytest.mark.parametrize("name, found", [
    ("1.md", []), ("1.multiply_adds.png", ["1.md"])])
def test_what_lies_elsewhere_is_no_part_of_a_collection(tmp_path, name, found):
  published = _published_to(tmp_path)
  path = tiny_export.write_collection(published.root).with_name(name)
  assert [file.name for collection in published.collections()
          for file in collection.files()] == ["1.md", "1.multiply_adds.png"]
  path.rename(tmp_path / "elsewhere")
  path.symlink_to(tmp_path / "elsewhere")
  assert [file.name for collection in published.collections()
          for file in collection.files()] == found


@pytest.mark.parametrize("name", [
    "local", "local/tiny_classification", _NAMES[0], f"{_NAMES[0]}.md",
    f"{_NAMES[0]}.tar.gz", f"{_NAMES[0]}.checks.json"])
def test_what_lies_elsewhere_is_not_published(tmp_path, name):
  published = _published_to(tmp_path)
  path = published.root / name
  path.rename(tmp_path / "elsewhere")
  path.symlink_to(tmp_path / "elsewhere")
  assert published.models() == []
  assert published.model(_handle(0)) is None
  # By a link within the directory, it is.
  path.unlink()
  (tmp_path / "elsewhere").rename(published.root / "inside")
  path.symlink_to(published.root / "inside")
  assert published.model(_handle(0)) is not None


def test_a_card_is_parsed_once_for_all_addresses(tmp_path, monkeypatch):
  published = _published_to(tmp_path, "local/parsed_once/1")
  handle = export_dirs.parse_handle("local/parsed_once/1")
  (published.root / "local/parsed_once/1.md").write_text(
      "# Module\n```\nPATH_OR_URL PATH_OR_URL/local/parsed_once/1\n```\n")
  calls = []
  render = cards.render
  monkeypatch.setattr(cards, "render", lambda *arguments: (
      calls.append(arguments), render(*arguments))[1])
  for base_url in ("http://a", "http://b"):
    page = site.Site(published).model(
        pages.Place(base_url, is_static=True), handle).body.decode()
    assert (f"<code>{base_url} {base_url}/local/parsed_once/1.tar.gz\n</code>"
            in page)
  assert len(calls) == 1


def test_a_card_is_read_no_further_than_it_is_shown(tmp_path):
  published = _published_to(tmp_path)
  (published.root / f"{_NAMES[0]}.md").write_text(
      "a" * (cards.MOST_CHARACTERS + 1000))
  assert len(published.card(_handle(0))) == cards.MOST_CHARACTERS + 1


def test_a_reported_accuracy_is_called_so(tmp_path):
  directory.Directory(tmp_path / "root").put(
      releases.read(tiny_export.make(tmp_path / "exports")))
  module_dir = tmp_path / "root" / _NAMES[0]
  (module_dir / export_dirs.MANIFEST).write_text(
      '{"reported_accuracy": {"top1": 75.46}}')
  export_dirs.report_path(module_dir).write_text("{}")
  model, = models.Published(tmp_path / "root").models()
  assert model.top1 == models.Accuracy(75.46, None, None, False)


@pytest.mark.parametrize("query, expected", [
    ("", (0, 1, 2)), ("TINY", (0, 1, 2)), ("big", (2,)), ("my-lab", (2,)),
    ("big tiny", (2,)), ("tiny-classification", (0, 1)), ("cats dogs", (0, 1,
                                                                        2)),
    ("Feature.Extractor", (2,)), ("?!", (0, 1, 2)), ("eel", ())])
def test_search(published, query, expected):
  found = search.matching(published.models(), query)
  assert {str(model.handle) for model in found} == {
      _NAMES[i] for i in expected}


def test_orders_put_the_unknown_last():
  def model(name, **values):
    known = dict.fromkeys((
        "kind", "family", "variant", "form", "dataset", "dataset_title",
        "licence", "parameters", "multiply_adds", "image_size_px",
        "num_outputs", "top1", "top5", "status", "checked"))
    return models.Model(
        handle=export_dirs.Handle("p", name, 1), title="", description="",
        is_demo=False, archive_bytes=1, **{**known, **values})

  a = model("a", parameters=20)
  b = model("b", top1=models.Accuracy(70.0, None, None, True))
  c = model("c", parameters=3, top1=models.Accuracy(80.0, None, None, True))
  assert search.ordered([a, b, c], "parameters") == [c, a, b]
  assert search.ordered([a, b, c], "top1") == [c, b, a]
  assert search.ordered([c, a, b], "nonsense") == [c, a, b]


def test_hashes_of_what_changes(tmp_path):
  path = tmp_path / "file"
  known = hashes.Hashes()
  for content in (b"one", b"other"):
    path.write_bytes(content)
    assert known.sha256(path) == hashlib.sha256(content).hexdigest()


def test_hashes_are_of_the_bytes_whatever_their_time(tmp_path):
  path, sums = tmp_path / "1.tar.gz", tmp_path / "1.SHA256SUMS"
  path.write_bytes(b"archive")
  right = hashlib.sha256(b"archive").hexdigest()
  sums.write_text(f"{right}  1.tar.gz\nnonsense\n{right} *a b\n")
  assert hashes.parse(sums.read_text()) == {"1.tar.gz": right, "a b": right}
  known = hashes.Hashes()
  version = hashes.VersionHashes(known, sums)
  assert version.sha256(path) == right
  assert version.is_as_listed("1.tar.gz", path) is True
  assert version.is_as_listed("other", path) is None
  stat = path.stat()
  path.write_bytes(b"altered")
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  assert version.sha256(path) == hashlib.sha256(b"altered").hexdigest()
  assert version.is_as_listed("1.tar.gz", path) is False
  assert hashes.VersionHashes(known, None).is_as_listed(
      "1.tar.gz", path) is None


def test_one_file_s_hash_waits_for_no_other_s(tmp_path, monkeypatch):
  for name in ("large", "small"):
    (tmp_path / name).write_text(name)
  known, slow = hashes.Hashes(), threading.Event()
  counts = collections.Counter()

  def file_sha256(path):
    counts[path.name] += 1
    if path.name == "large":
      assert slow.wait(30)
    return path.name

  monkeypatch.setattr(export_dirs, "file_sha256", file_sha256)
  with futures.ThreadPoolExecutor(3) as threads:
    large = [threads.submit(known.sha256, tmp_path / "large")
             for _ in range(2)]
    assert threads.submit(known.sha256, tmp_path / "small").result(20) == (
        "small")
    slow.set()
    assert [one.result(30) for one in large] == ["large"] * 2
  assert counts["large"] == 1


@pytest.mark.parametrize("value, count, size", [
    (0, "0", "0 B"), (999, "999", "999 B"), (999_999, "1.00 M", "1.00 MB"),
    (1000, "1.00 K", "1.00 kB"), (5_452_250, "5.45 M", "5.45 MB"),
    (9_996, "10.0 K", "10.0 kB"), (600_624_698, "601 M", "601 MB"),
    (25_060_000, "25.1 M", "25.1 MB"), (2 * 10**15, "2000 T", "2000 TB")])
def test_figures(value, count, size):
  assert formats.short(value) == count
  assert formats.size(value) == size


def test_unknown_and_percent():
  assert formats.short(None) == "–"
  assert [formats.percent(v) for v in (97.5, 100.0, -0.001)] == [
      "97.50", "100.00", "0.00"]
