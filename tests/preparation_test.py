"""Tests of preparing data sets, from tiny archives."""

import os
import types

import pytest
import requests

from checks import evaluation_sets
from checks import preparation
from hub_export import errors
from tests import tiny_sets

A = "imagenet-a.tar"


def archive_a(count=2):
  return tiny_sets.tar({f"imagenet-a/n01498041/{i}.jpg": tiny_sets.jpeg(i)
                        for i in range(count)})


def left_over(data_dir):
  """Returns what lies in a data directory, but downloads and locks."""
  return [p for p in data_dir.rglob("*") if p.is_file()
          and "downloads" not in p.parts and p.suffix != ".lock"]


def test_from_an_archive_got_by_hand(tmp_path):
  manual = tmp_path / "manual"
  files = {tiny_sets.VALIDATION: tiny_sets.validation_tar()}
  with tiny_sets.published("imagenet2012", manual, files, {"validation": 8}):
    path = preparation.prepare("imagenet2012", tmp_path / "data", manual)
    assert path == tmp_path / "data" / "imagenet2012" / "5.1.0"
    found = evaluation_sets.open(
        "imagenet2012", "validation", tmp_path / "data")
    labels = {e["file_name"]: e["labels"].tolist()
              for e in found.examples().as_numpy_iterator()}
    assert labels[b"ILSVRC2012_val_00000002.JPEG"] == [970]
    # Once more changes nothing, also without the archive.
    (manual / tiny_sets.VALIDATION).unlink()
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    assert preparation.prepare(
        "imagenet2012", tmp_path / "data", manual) == path
    assert before == {p: p.stat().st_mtime_ns for p in path.rglob("*")}


def test_without_a_network_from_the_default_directory(tmp_path, monkeypatch):
  monkeypatch.setattr(requests.Session, "send", no_network)
  with tiny_sets.published("imagenet_a", tmp_path / "downloads" / "manual",
                           {A: archive_a()}, {"test": 2}):
    preparation.prepare("imagenet_a", tmp_path)
    found = evaluation_sets.open("imagenet_a", "test", tmp_path)
    assert found.num_examples == 2


def no_network(*_, **__):
  raise requests.exceptions.ConnectionError("name resolution failed")


def test_archive_is_not_there(tmp_path):
  with pytest.raises(errors.UnavailableError) as caught:
    preparation.prepare("imagenet2012", tmp_path)
  message = str(caught.value)
  manual = tmp_path / "downloads" / "manual"
  assert f"prepared without {manual}/ILSVRC2012_img_val.tar" in message
  assert "image-net.org/download-images" in message
  assert not list(tmp_path.iterdir())


def test_archive_is_not_whole(tmp_path):
  manual = tmp_path / "downloads" / "manual"
  whole = tiny_sets.validation_tar()
  with tiny_sets.published("imagenet2012", manual,
                           {tiny_sets.VALIDATION: whole}):
    os.truncate(manual / tiny_sets.VALIDATION, 1234)
    with pytest.raises(errors.HubExportError,
                       match=f"has 1,234 bytes; expected {len(whole):,}, so.*"
                       "Get it again from https://image-net.org"):
      preparation.prepare("imagenet2012", tmp_path)


def test_archive_is_another(tmp_path):
  """As long as the published one; TFDS itself would take it."""
  manual = tmp_path / "downloads" / "manual"
  whole = tiny_sets.validation_tar()
  with tiny_sets.published("imagenet2012", manual,
                           {tiny_sets.VALIDATION: whole}):
    (manual / tiny_sets.VALIDATION).write_bytes(whole[:-1] + b"x")
    with pytest.raises(errors.HubExportError,
                       match="has the SHA-256.*expected"):
      preparation.prepare("imagenet2012", tmp_path)
  assert not left_over(tmp_path)


def test_downloaded_archive_is_another(tmp_path):
  manual = tmp_path / "downloads" / "manual"
  with tiny_sets.published("imagenet_a", manual, {A: archive_a()}):
    (manual / A).write_bytes(archive_a()[:-1] + b"x")
    with pytest.raises(errors.HubExportError, match="not the published one"):
      preparation.prepare("imagenet_a", tmp_path)
  assert not left_over(tmp_path)


def test_no_network(tmp_path, monkeypatch):
  monkeypatch.setattr(requests.Session, "send", no_network)
  with tiny_sets.published("imagenet_a", tmp_path / "else", {A: archive_a()}):
    with pytest.raises(
        errors.UnavailableError,
        match="could not be downloaded .*name resolution.*downloads/manual"):
      preparation.prepare("imagenet_a", tmp_path / "data")
  assert not left_over(tmp_path / "data")


def test_unexpected_content(tmp_path):
  """Nothing half-written is left."""
  manual = tmp_path / "downloads" / "manual"
  content = tiny_sets.tar({
      "imagenet-a/n01498041/0.jpg": tiny_sets.jpeg(0),
      "imagenet-a/no_synset/1.jpg": tiny_sets.jpeg(1)})
  with tiny_sets.published("imagenet_a", manual, {A: content}):
    with pytest.raises(errors.HubExportError,
                       match="TFDS could not prepare imagenet_a .*no_synset"):
      preparation.prepare("imagenet_a", tmp_path)
  assert not left_over(tmp_path)


def test_no_space(tmp_path, monkeypatch):
  content = archive_a()
  usage = types.SimpleNamespace(free=2 * len(content))
  monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: usage)
  with tiny_sets.published("imagenet_a", tmp_path / "downloads" / "manual",
                           {A: content}):
    with pytest.raises(errors.WriteError, match="20 kB free; .*needs 23 kB"):
      preparation.prepare("imagenet_a", tmp_path)


def test_not_writable(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.WriteError, match="cannot write"):
    with tiny_sets.published("imagenet_a", tmp_path / "m", {A: archive_a()}):
      preparation.prepare("imagenet_a", tmp_path / "file", tmp_path / "m")


def test_folder(tmp_path):
  with pytest.raises(errors.UsageError, match="needs no preparing"):
    preparation.prepare(f"folder:{tmp_path}")


def test_unknown(tmp_path):
  with pytest.raises(errors.UsageError, match="no data set 'imagnet'"):
    preparation.prepare("imagnet", tmp_path)


def test_digits(tmp_path):
  assert preparation.prepare("optical_digits", tmp_path) == (
      tmp_path / "optical_digits" / "1.0.0")
