"""Tests of handles, digests and writing that is all or none."""

import errno
import hashlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile

import pytest

from hub_export import errors
from hub_export import export_dirs
from tests import tiny_export

_ROOT = pathlib.Path(__file__).absolute().parents[1]


class TestHandle:

  @pytest.mark.parametrize("text", [
      "local/regnety600mf_classification/1", "a-1/x.y-z_W/12", "7/_x/999999999"])
  def test_round_trip(self, text):
    handle = export_dirs.parse_handle(text)
    assert str(handle) == text
    publisher, name, version = text.split("/")
    assert handle == export_dirs.Handle(publisher, name, int(version))

  @pytest.mark.parametrize("text", [
      "", "a/b", "a/b/1/2", "/b/1", "a//1", "a/b/", "a/b/0", "a/b/01",
      "a/b/-1", "a/b/1.0", "a/b/x", "a/b/1\n", "a/b/1234567890", "A/b/1",
      "a_b/b/1", "a/b c/1", "../b/1", "a/../1", "a/.b/1", "é/b/1", "a/é/1",
      "a/b/\u0661", " a/b/1"])
  def test_refused(self, text):
    with pytest.raises(errors.HubExportError,
                       match="publisher/name/version") as e:
      export_dirs.parse_handle(text)
    assert repr(text) in str(e.value)


class TestReadManifest:

  def test_reads(self, tmp_path):
    export_dir = tiny_export.make(tmp_path)
    assert export_dirs.read_manifest(export_dir)["handle"] == tiny_export.HANDLE

  def test_directory_above_gives_a_hint(self, tmp_path):
    tiny_export.make(tmp_path, "local/tiny/9")
    newest = tiny_export.make(tmp_path, "local/tiny/10")
    with pytest.raises(errors.HubExportError,
                       match=f"did you mean {newest}"):
      export_dirs.read_manifest(newest.parent)

  @pytest.mark.parametrize("content", [
      b"", b"{", b"[]", b"{}", b'{"handle": 1}', b'{"handle": "x"}', b"\xff",
      b"[" * 100_000], ids=lambda content: content[:20])
  def test_damaged(self, tmp_path, content):
    export_dir = tiny_export.make(tmp_path)
    path = export_dir / "assets.extra" / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(errors.HubExportError, match="cannot be read") as e:
      export_dirs.read_manifest(export_dir)
    assert str(path) in str(e.value)


class TestVersions:

  def test_only_directories_with_plain_numbers(self, tmp_path):
    for name in ("1", "10", "9", "02", "0", "x1", ".tmp-3", "4.d"):
      (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    assert export_dirs.versions(tmp_path) == [1, 9, 10]
    assert export_dirs.versions(tmp_path / "none") == []

  def test_report_and_card_lie_beside(self):
    export_dir = pathlib.Path("out/local/v1.5/3")
    assert export_dirs.report_path(export_dir) == pathlib.Path(
        "out/local/v1.5/3.checks.json")
    assert export_dirs.card_path(export_dir) == pathlib.Path(
        "out/local/v1.5/3.md")


class TestEvaluationPath:

  @pytest.mark.parametrize("dataset, split, name", [
      ("imagenet2012", "validation", "imagenet2012-validation.html"),
      ("imagenet_v2/topimages", "test", "imagenet_v2-topimages-test.html"),
      ("..", "../../x", "..-..-..-x.html"), ("/a", "/b", "-a--b.html")])
  def test_is_always_a_file_beside_the_export(self, dataset, split, name):
    export_dir = pathlib.Path("out/local/m/1")
    assert export_dirs.evaluation_path(export_dir, dataset, split, ".html") == (
        pathlib.Path("out/local/m/1.evaluations") / name)

  def test_links(self):
    links = export_dirs.evaluation_links("4", "a b/c", "test[:5%]")
    assert links[0] == (
        "4.evaluations/a%20b-c-test%5B%3A5%25%5D.reliability.png")
    assert [link.partition("%5D")[2] for link in links] == [
        ".reliability.png", ".classes.png", ".worst.png", ".html"]
    export_dir = pathlib.Path("out/local/m/4")
    assert export_dirs.linked_path(export_dir, links[3]) == (
        export_dirs.evaluation_path(
            export_dir, "a b/c", "test[:5%]", ".html"))


class TestDigest:

  def test_is_what_sha256sum_gives(self, tmp_path):
    export_dir = tiny_export.make(tmp_path)
    # Sorted by bytes: capitals first, and "-" before "/".
    # Names need not be UTF-8.
    names = ("assets-b", "assets/B", "Z", "empty", "assets/é", "\ue000",
             os.fsdecode(b"no \xff utf-8"), os.fsdecode(b"\xff"))
    for name in names:
      (export_dir / name).write_bytes(
          b"" if name == "empty" else os.fsencode(name))
    # More than the block that is read at once, and not a multiple of it.
    (export_dir / "large").write_bytes(bytes(range(251)) * 10_000)
    recipe = ("find . -type f -printf '%P\\0' | LC_ALL=C sort -z"
              " | xargs -0 sha256sum")
    lines = subprocess.run(["bash", "-c", recipe], cwd=export_dir, check=True,
                           capture_output=True).stdout
    assert len(lines.splitlines()) == 15
    assert export_dirs.digest(export_dir) == hashlib.sha256(lines).hexdigest()
    shown = dict(reversed(line.split("  ", 1))
                 for line in os.fsdecode(lines).splitlines())
    assert export_dirs.file_sha256(export_dir / "large") == shown["large"]

  def test_of_nothing_and_of_abc(self, tmp_path):
    # FIPS 180-4's example.
    (tmp_path / "abc").write_bytes(b"abc")
    assert export_dirs.file_sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")

  @pytest.mark.parametrize("target", ["fingerprint.pb", "variables", "nowhere"])
  def test_links_are_refused(self, tmp_path, target):
    export_dir = tiny_export.make(tmp_path)
    (export_dir / "link").symlink_to(target)
    with pytest.raises(errors.HubExportError, match="link is neither"):
      export_dirs.digest(export_dir)


  @pytest.mark.parametrize("where, name", [
      ("builtins.open", "saved_model.pb"), ("os.scandir", "variables")])
  def test_unreadable(self, tmp_path, monkeypatch, where, name):
    export_dir = tiny_export.make(tmp_path)
    module, function = where.split(".")
    real = getattr(sys.modules[module], function)

    # As for a user without the right; a superuser may read all.
    def denied(path, *args, **kwargs):
      if os.fspath(path) == str(export_dir / name):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
      return real(path, *args, **kwargs)
    monkeypatch.setattr(where, denied)
    with pytest.raises(errors.HubExportError, match="Permission denied") as e:
      export_dirs.digest(export_dir)
    assert f"{export_dir / name} cannot be read" in str(e.value)


# Writes a file over another, and dies by the signal of a file grown too large:
# by kill -9 between the whole content and the new name, or in its middle.
_DYING = """
import os, pathlib, resource, signal, sys
from hub_export import export_dirs
path, where = pathlib.Path(sys.argv[1]), sys.argv[2]
if where == "middle":
  signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
else:
  sys.addaudithook(lambda event, _: event == where and os.kill(
      os.getpid(), signal.SIGKILL))
export_dirs.write_file(path, b"new" * 5000)
"""


class TestWriteFile:

  def test_bytes_and_text(self, tmp_path):
    path = tmp_path / "new" / "dir" / "card.md"
    export_dirs.write_file(path, "é\r\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n"
    assert path.stat().st_mode & 0o777 == 0o644
    export_dirs.write_file(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]

  @pytest.mark.parametrize("where, status", [
      ("middle", -signal.SIGXFSZ), ("os.rename", -signal.SIGKILL),
      ("os.chmod", -signal.SIGKILL)])
  def test_killed_leaves_the_old_one(self, tmp_path, where, status):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", _DYING, str(path), where], cwd=_ROOT,
        env={**os.environ,
             "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    assert path.read_bytes() == b"old"
    # What it had begun is hidden and no one's version, report or card.
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.name.startswith(".file.")
    # The next writer of the file takes it away, and nothing else.
    for name in (".file.original", ".other.md.abcd1234.part"):
      (tmp_path / name).write_text("mine")
    export_dirs.write_file(path, b"newer")
    assert tiny_export.tree(tmp_path) == {
        "file": b"newer", ".file.original": b"mine",
        ".other.md.abcd1234.part": b"mine"}

  def test_what_another_still_writes_stays(self, tmp_path):
    path = tmp_path / "file"
    with export_dirs.open_whole(path) as slow:
      slow.write(b"slow")
      export_dirs.write_file(path, b"quick")
      assert path.read_bytes() == b"quick"
    assert tiny_export.tree(tmp_path) == {"file": b"slow"}

  def test_taken_away_before_it_is_locked_another_is_begun(
      self, tmp_path, monkeypatch):
    real = tempfile.mkstemp
    made = []
    def mkstemp(*args, **kwargs):
      made.append(real(*args, **kwargs))
      if len(made) == 1:
        os.unlink(made[0][1])
      return made[-1]
    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    export_dirs.write_file(tmp_path / "file", b"new")
    assert len(made) == 2
    assert tiny_export.tree(tmp_path) == {"file": b"new"}

  def test_full_disk_leaves_the_old_one_alone(self, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:  # Python ignores the signal, so that the write itself fails.
      with pytest.raises(errors.WriteError, match="ulimit") as e:
        export_dirs.write_file(path, b"new" * 1000)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(path) in str(e.value)
    assert tiny_export.tree(tmp_path) == {"file": b"old"}

  def test_an_error_of_the_block_leaves_nothing(self, tmp_path):
    with pytest.raises(ZeroDivisionError):
      with export_dirs.open_whole(tmp_path / "file") as f:
        f.write(b"half")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []

  def test_below_a_file(self, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.WriteError, match="Not a directory|File exists"):
      export_dirs.write_file(tmp_path / "file" / "card.md", "")

  def test_over_a_directory(self, tmp_path):
    (tmp_path / "card.md" / "x").mkdir(parents=True)
    with pytest.raises(errors.WriteError, match="Is a directory"):
      export_dirs.write_file(tmp_path / "card.md", "")
    assert list(tmp_path.iterdir()) == [tmp_path / "card.md"]


@pytest.mark.parametrize("publisher", ["local", "my-name-2"])
def test_publisher(publisher):
  export_dirs.check_publisher(publisher)


@pytest.mark.parametrize("publisher", ["", "A", "a_b", "a/b", ".", "a\n"])
def test_bad_publisher(publisher):
  with pytest.raises(errors.UsageError, match="lower-case"):
    export_dirs.check_publisher(publisher)
