"""Tests of hub_export/archive.py: what hub.load reads, and reproducibility."""

import gzip
import hashlib
import io
import os
import pathlib
import random
import struct
import subprocess
import sys
import tarfile
import tracemalloc

import pytest

from hub_export import archive
from hub_export import errors
from tests import tiny_export


@pytest.fixture(name="export_dir")
def _export_dir(tmp_path: pathlib.Path) -> pathlib.Path:
  return tiny_export.make(tmp_path / "exports")


def test_members_are_the_export_in_order_with_directories(export_dir, tmp_path):
  archive.write(tmp_path / "1.tar.gz", export_dir)
  with tarfile.open(tmp_path / "1.tar.gz") as tar:
    members = tar.getmembers()
    contents = {m.name: tar.extractfile(m).read() for m in members
                if m.isfile()}
  assert [m.name for m in members] == [
      "assets", "assets.extra", "assets.extra/manifest.json",
      "assets/labels.txt", "fingerprint.pb", "saved_model.pb", "variables",
      "variables/variables.data-00000-of-00001", "variables/variables.index"]
  assert [m.name for m in members if m.isdir()] == [
      "assets", "assets.extra", "variables"]
  manifest = (export_dir / "assets.extra" / "manifest.json").read_bytes()
  assert contents == tiny_export.FILES | {
      "assets.extra/manifest.json": manifest}
  for m in members:
    assert (m.uid, m.gid, m.uname, m.gname, m.mtime) == (0, 0, "", "", 0)
    assert m.mode == (0o755 if m.isdir() else 0o644)


def test_gzip_header_has_neither_time_nor_name(export_dir, tmp_path):
  archive.write(tmp_path / "1.tar.gz", export_dir)
  header = (tmp_path / "1.tar.gz").read_bytes()[:10]
  # RFC 1952: magic, method 8 (deflate), flags, time, extra flags, system.
  magic, method, flags, time = struct.unpack("<HBBI", header[:8])
  assert (magic, method, flags, time) == (0x8b1f, 8, 0, 0)


def test_same_bytes_whatever_times_modes_and_order_of_making(tmp_path):
  one = tiny_export.make(tmp_path / "one")
  two = tiny_export.make(tmp_path / "two", files=dict(
      reversed(tiny_export.FILES.items())))
  for path in two.rglob("*"):
    os.utime(path, (1, 1))
    path.chmod(0o700)
  archive.write(tmp_path / "one.tar.gz", one)
  code = ("import pathlib, sys; from hub_export import archive; "
          "archive.write(*map(pathlib.Path, sys.argv[1:]))")
  subprocess.run(
      [sys.executable, "-c", code, tmp_path / "another_name.tgz", two],
      check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
  assert ((tmp_path / "one.tar.gz").read_bytes()
          == (tmp_path / "another_name.tgz").read_bytes())


def test_sha256_and_size_are_those_of_the_file(export_dir, tmp_path):
  # Blocks that do not compress, so that more than one of them is digested.
  (export_dir / "variables" / "big").write_bytes(
      random.Random(0).randbytes(3 << 20))
  archive.write(tmp_path / "1.tar.gz", export_dir)
  whole = (tmp_path / "1.tar.gz").read_bytes()
  before = tiny_export.tree(tmp_path)
  assert archive.sha256(export_dir) == (
      hashlib.sha256(whole).hexdigest(), len(whole))
  assert tiny_export.tree(tmp_path) == before


def test_sha256_of_what_cannot_be_packed(export_dir):
  (export_dir / "link").symlink_to("saved_model.pb")
  with pytest.raises(errors.HubExportError, match="link is neither"):
    archive.sha256(export_dir)
  with pytest.raises(errors.HubExportError, match="nowhere cannot be read"):
    archive.sha256(export_dir.with_name("nowhere"))


def test_memory_does_not_grow_with_the_files(tmp_path):
  size = 48 << 20
  export_dir = tiny_export.make(tmp_path / "exports")
  with open(export_dir / "variables" / "big", "wb") as f:
    f.truncate(size)
  tracemalloc.start()
  try:
    archive.write(tmp_path / "1.tar.gz", export_dir)
    archive.verify(tmp_path / "1.tar.gz", export_dir)
    archive.sha256(export_dir)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < size / 6  # Blocks of 1 MiB, a few of them at a time.


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    export_dir, tmp_path, monkeypatch):
  target = tmp_path / "out" / "1.tar.gz"
  target.parent.mkdir()
  target.write_bytes(b"old")
  def full(_):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(errors.WriteError, match="No space left"):
    archive.write(target, export_dir)
  assert tiny_export.tree(target.parent) == {"1.tar.gz": b"old"}


def test_symbolic_links_are_refused(export_dir, tmp_path):
  (export_dir / "link").symlink_to("saved_model.pb")
  with pytest.raises(errors.HubExportError, match="link is neither"):
    archive.write(tmp_path / "1.tar.gz", export_dir)
  assert not (tmp_path / "1.tar.gz").exists()


class TestVerify:

  def test_accepts_what_was_written(self, export_dir, tmp_path):
    archive.write(tmp_path / "1.tar.gz", export_dir)
    archive.verify(tmp_path / "1.tar.gz", export_dir)

  @pytest.mark.parametrize("change, problem", [
      (lambda e: (e / "saved_model.pb").write_bytes(b"Graph" + b"graph" * 39),
       "saved_model.pb holds other bytes"),
      (lambda e: (e / "more").write_bytes(b""), "more is missing"),
      (lambda e: (e / "empty").mkdir(), "empty is missing"),
      (lambda e: (e / "fingerprint.pb").unlink(),
       "fingerprint.pb is not part of the export"),
  ])
  def test_names_each_difference(self, export_dir, tmp_path, change, problem):
    archive.write(tmp_path / "1.tar.gz", export_dir)
    change(export_dir)
    with pytest.raises(errors.HubExportError) as caught:
      archive.verify(tmp_path / "1.tar.gz", export_dir)
    assert f"  {problem}\n" in str(caught.value)

  def test_names_kind_order_and_doubles(self, export_dir, tmp_path):
    data = b"graph" * 40
    with tarfile.open(tmp_path / "1.tar.gz", "w:gz") as tar:
      for name in ("saved_model.pb", "saved_model.pb", "assets/labels.txt"):
        info = tarfile.TarInfo(name)
        content = b"cat\ndog\n" if name.startswith("assets") else data
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
      link = tarfile.TarInfo("fingerprint.pb")
      link.type = tarfile.SYMTYPE
      link.linkname = "saved_model.pb"
      tar.addfile(link)
    with pytest.raises(errors.HubExportError) as caught:
      archive.verify(tmp_path / "1.tar.gz", export_dir)
    for problem in ("saved_model.pb is there twice",
                    "assets/labels.txt comes before the entry of its directory",
                    "fingerprint.pb is of another kind",
                    "variables is missing"):
      assert f"  {problem}\n" in str(caught.value)

  @pytest.mark.parametrize("kept", [0, 5, 100, -9, -1])
  def test_truncated(self, export_dir, tmp_path, kept):
    archive.write(tmp_path / "1.tar.gz", export_dir)
    whole = (tmp_path / "1.tar.gz").read_bytes()
    (tmp_path / "1.tar.gz").write_bytes(whole[:kept])
    with pytest.raises(errors.HubExportError, match="1.tar.gz cannot be read"):
      archive.verify(tmp_path / "1.tar.gz", export_dir)

  def test_truncated_within_a_large_file(self, export_dir, tmp_path):
    (export_dir / "variables" / "big").write_bytes(
        random.Random(0).randbytes(3 << 20))
    archive.write(tmp_path / "1.tar.gz", export_dir)
    whole = (tmp_path / "1.tar.gz").read_bytes()
    (tmp_path / "1.tar.gz").write_bytes(whole[:2 << 20])
    with pytest.raises(errors.HubExportError, match="1.tar.gz cannot be read"):
      archive.verify(tmp_path / "1.tar.gz", export_dir)
    with pytest.raises(errors.HubExportError, match="1.tar.gz cannot be read"):
      archive.file_sha256s(tmp_path / "1.tar.gz", "none")

  def test_wrong_checksum_at_the_end(self, export_dir, tmp_path):
    archive.write(tmp_path / "1.tar.gz", export_dir)
    whole = bytearray((tmp_path / "1.tar.gz").read_bytes())
    whole[-8] ^= 1  # The CRC-32 of RFC 1952.
    (tmp_path / "1.tar.gz").write_bytes(whole)
    with pytest.raises(errors.HubExportError, match="CRC"):
      archive.verify(tmp_path / "1.tar.gz", export_dir)

  @pytest.mark.parametrize("read", [
      lambda path, export_dir: archive.verify(path, export_dir),
      lambda path, export_dir: archive.file_sha256s(path, "none")])
  def test_more_after_its_end(self, export_dir, tmp_path, read):
    path = tmp_path / "1.tar.gz"
    archive.write(path, export_dir)
    plain = gzip.decompress(path.read_bytes())
    with tarfile.open(path) as tar:
      last = tar.getmembers()[-1]
    end = last.offset_data + (last.size + 511) // 512 * 512
    evil = tarfile.TarInfo("evil").tobuf()
    # Behind one block of zeros, the usual two, and the usual padding.
    for content in (plain[:end] + bytes(512) + evil,
                    plain[:end] + bytes(1024) + evil, plain + b"x"):
      path.write_bytes(gzip.compress(content))
      with pytest.raises(errors.HubExportError, match="more after its end"):
        read(path, export_dir)

  def test_missing_or_no_archive(self, export_dir, tmp_path):
    with pytest.raises(errors.HubExportError, match="No such file"):
      archive.verify(tmp_path / "1.tar.gz", export_dir)
    (tmp_path / "1.tar.gz").write_bytes(gzip.compress(b"no tar" * 999))
    with pytest.raises(errors.HubExportError, match="cannot be read"):
      archive.verify(tmp_path / "1.tar.gz", export_dir)


class TestFileSha256s:

  def test_are_those_of_the_export(self, export_dir, tmp_path):
    archive.write(tmp_path / "1.tar.gz", export_dir)
    hashes, kept = archive.file_sha256s(
        tmp_path / "1.tar.gz", "assets.extra/manifest.json")
    manifest = (export_dir / "assets.extra" / "manifest.json").read_bytes()
    assert kept == manifest
    assert hashes == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in {**tiny_export.FILES,
                              "assets.extra/manifest.json": manifest}.items()}
    assert archive.file_sha256s(tmp_path / "1.tar.gz", "none")[1] is None

  def test_names_all_that_may_not_be_in_an_archive(self, tmp_path):
    with tarfile.open(tmp_path / "1.tar.gz", "w:gz") as tar:
      for name in ("../up", "/root", "./here", "a/../b", "a", "a", "fine"):
        info = tarfile.TarInfo(name)
        info.size = 2
        tar.addfile(info, io.BytesIO(b"ab"))
      for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE),
                         ("pipe", tarfile.FIFOTYPE)):
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = "fine"
        tar.addfile(info)
      big = tarfile.TarInfo("manifest")
      big.size = (16 << 20) + 1
      tar.addfile(big, io.BytesIO(bytes(big.size)))
    with pytest.raises(errors.HubExportError) as caught:
      archive.file_sha256s(tmp_path / "1.tar.gz", "manifest")
    assert str(caught.value).splitlines()[1:-1] == [
        "  '../up' is no plain relative path",
        "  '/root' is no plain relative path",
        "  './here' is no plain relative path",
        "  'a/../b' is no plain relative path", "  a is there twice",
        "  link is neither file nor directory",
        "  hard is neither file nor directory",
        "  pipe is neither file nor directory",
        "  manifest has 16777217 bytes, which is too much"]
