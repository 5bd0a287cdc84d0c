"""Tests of publishing: what is refused, and that it is whole or nothing.

publish.py runs as the program that it is; what it is made of is called
directly where a test needs to interrupt it.
"""

import dataclasses
import gzip
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from hub_export import destinations
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import releases
from hub_export import signing_keys
from hub_export import trust
from hub_export.destinations import base
from hub_export.destinations import directory
from tests import tiny_export
from tests import tiny_keys

_HANDLE = export_dirs.Handle("local", "tiny_classification", 1)
_MODULE = "local/tiny_classification"
_UNSIGNED = (".SHA256SUMS", ".intoto.json")
_SIGNED = (*_UNSIGNED, ".sig", ".SHA256SUMS.sig")
_ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k != "BUILD_WORKING_DIRECTORY"},
    "PYTHONPATH": os.pathsep.join(sys.path)}

# Publishes argv[1] to argv[2]; dies by SIGKILL just before a call of one of the
# functions of os named in argv[4:], after argv[3] such calls.
_KILLED = """
import os, pathlib, signal, sys
from hub_export import releases
from hub_export.destinations import directory
left = int(sys.argv[3])
def dying(call):
  def wrapped(*args, **kwargs):
    global left
    if left == 0:
      os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return call(*args, **kwargs)
  return wrapped
release = releases.read(pathlib.Path(sys.argv[1]))
for name in sys.argv[4:]:
  setattr(os, name, dying(getattr(os, name)))
directory.Directory(pathlib.Path(sys.argv[2])).put(release)
"""

# What changes the file system, or makes a change last.
_CHANGES = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")

# Publishes argv[1] to argv[2] at the time argv[3].
_RACING = """
import pathlib, sys, time
from hub_export import errors, releases
from hub_export.destinations import directory
release = releases.read(pathlib.Path(sys.argv[1]))
time.sleep(max(0, float(sys.argv[3]) - time.time()))
try:
  print(directory.Directory(pathlib.Path(sys.argv[2])).put(release).name)
except errors.WriteError as e:
  print("WRITE ERROR", e)
except errors.HubExportError as e:
  print("REFUSED", e)
"""

# As publish.py, but no file may grow beyond argv[1] bytes (EFBIG).
_LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from hub_export import program, publish
program.run(publish.main)
"""


@pytest.fixture(name="export_dir")
def _export_dir(tmp_path: pathlib.Path) -> pathlib.Path:
  export_dir = tiny_export.make(tmp_path / "exports")
  tiny_export.write_attachments(export_dir)
  # Of an evaluation on something else; the card does not tell of it.
  (export_dir.parent / "1.evaluations" / "other-test.html").write_text("x")
  (export_dir.parent / "1.evaluations" / "pets-test.parquet").write_text("x")
  return export_dir


@pytest.fixture(name="to")
def _to(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / "published"


def _python(*args: object, cwd: pathlib.Path | None = None
            ) -> subprocess.CompletedProcess:
  return subprocess.run([sys.executable, *map(str, args)], text=True, cwd=cwd,
                        capture_output=True, env=_ENVIRONMENT, timeout=120)


def _publish(*flags: str, cwd: pathlib.Path | None = None
             ) -> subprocess.CompletedProcess:
  return _python("-m", "hub_export.publish", *flags, cwd=cwd)


def _assert_published(to: pathlib.Path, export_dir: pathlib.Path,
                      more: tuple[str, ...] = ()) -> None:
  """Asserts that `to` holds just the release of `export_dir`, all of it.

  Args:
    to: Where it was published.
    export_dir: The export.
    more: What the program adds, suffixes; `TestTrust` looks into these files.
  """
  module_dir = to / _MODULE / export_dir.name
  found = tiny_export.tree(to / _MODULE)
  for suffix in more:
    assert found.pop(export_dir.name + suffix)
  archive = found.pop(f"{export_dir.name}.tar.gz")
  assert archive is not None
  assert found == {
      f"{export_dir.name}.md": tiny_export.card_path(export_dir).read_bytes(),
      f"{export_dir.name}.checks.json":
          tiny_export.report_path(export_dir).read_bytes(),
      **{f"{export_dir.name}.evaluations/{name}": content
         for name, content in _attachments(export_dir).items()},
      **({f"{export_dir.name}.evaluations": None}
         if _attachments(export_dir) else {}),
      export_dir.name: None,
      **{f"{export_dir.name}/{path}": content
         for path, content in tiny_export.tree(export_dir).items()}}
  with tarfile.open(module_dir.with_name(f"{export_dir.name}.tar.gz")) as tar:
    packed = {m.name: tar.extractfile(m).read() if m.isfile() else None
              for m in tar}
  assert packed == tiny_export.tree(export_dir)


def _attachments(export_dir: pathlib.Path) -> dict[str, bytes]:
  """Returns name and bytes of what the card of `export_dir` links to."""
  directory = export_dir.with_name(f"{export_dir.name}.evaluations")
  return {path.name: path.read_bytes() for path in directory.glob("pets-*")
          if path.suffix != ".parquet"}


class TestProgram:

  def test_publishes_and_says_what_where_and_what_next(self, export_dir, to):
    done = _publish(f"--export_dir={export_dir}", f"--to={to}")
    assert (done.returncode, done.stderr) == (0, "")
    _assert_published(to, export_dir, _UNSIGNED)
    assert done.stdout == f"""\
local/tiny_classification/1: published
  module     {to}/local/tiny_classification/1/
  archive    {to}/local/tiny_classification/1.tar.gz
  card       {to}/local/tiny_classification/1.md
  report     {to}/local/tiny_classification/1.checks.json
  collection {to}/local/collections/tiny/1.md
Load it with:
  python -m hub_export.serve --root={to}
  hub.load("http://localhost:8080/local/tiny_classification/1")
"""

  def test_twice_is_once(self, export_dir, to):
    _publish(f"--export_dir={export_dir}", f"--to={to}")
    before = tiny_export.tree(to)
    times = {p: p.stat().st_mtime_ns for p in to.rglob("*") if p.is_file()}
    done = _publish(f"--export_dir={export_dir}", f"--to={to}")
    assert done.returncode == 0
    assert "published already; nothing to do" in done.stdout
    assert tiny_export.tree(to) == before
    assert times == {
        p: p.stat().st_mtime_ns for p in to.rglob("*") if p.is_file()}

  def test_relative_paths_are_the_users(self, export_dir, to):
    done = _publish("--export_dir=exports/local/tiny_classification/1",
                    "--to=published", cwd=to.parent)
    assert done.returncode == 0, done.stderr
    _assert_published(to, export_dir, _UNSIGNED)

  def test_starts_without_tensorflow(self):
    done = _python("-X", "importtime", "-m", "hub_export.publish", "--help")
    assert done.returncode == 0
    assert "--export_dir" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip()
                for line in done.stderr.splitlines()}
    assert "hub_export.releases" in imported
    assert not imported & {"tensorflow", "numpy", "tf_keras", "starlette",
                           "jinja2", "fsspec", "s3fs", "gcsfs", "kagglehub",
                           "huggingface_hub", "requests"}

  @pytest.mark.parametrize("flags, fault", [
      ([], "--export_dir"), (["--export_dir=x"], "--to"),
      (["--export_dir=x", "--to=y", "--force"], "force"),
      (["--export_dir=x", "--to=y", "z"], "'z'"),
      (["--export_dir=x", "--to=ftp://host/models"],
       "--to=ftp://host/models is no place to publish to; expected one of: "
       "a directory, --to=published; Google Cloud Storage, "
       "--to=gs://bucket/prefix; "),
      (["--export_dir=x", "--to=s3://"], "--to=s3:// names no place"),
      (["--export_dir=x", "--to="], "--to= is no place"),
  ])
  def test_wrong_usage_exits_with_2(self, tmp_path, flags, fault):
    done = _publish(*flags, cwd=tmp_path)
    assert done.returncode == 2
    assert fault in done.stderr
    assert "Traceback" not in done.stderr
    assert tiny_export.tree(tmp_path) == {}

  def test_a_dry_run_says_what_would_happen_and_changes_nothing(
      self, export_dir, to):
    flags = (f"--export_dir={export_dir}", f"--to={to}", "--dry_run")
    done = _publish(*flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert not to.exists()
    first, *lines, last = done.stdout.splitlines()
    assert first == ("local/tiny_classification/1: would be published; the "
                     "version is free")
    assert last == "Nothing was changed."
    sha256 = tiny_export.digest(export_dir)
    assert lines[:3] == [
        f"  report: all 26 checks passed, of these very bytes "
        f"({sha256[:12]}...)",
        "  data set: pets, test, as the card says",
        "  card: agrees with manifest and report"]
    _publish(*flags[:2])
    assert lines[3:] and sorted(lines[3:]) == sorted([
        f"  would write {path} ({path.stat().st_size:,} bytes)"
        for path in (to / _MODULE).rglob("*") if path.is_file()
    ] + [f"  would make or renew, if it is not so already, {to}/local/{path}"
         for path in ("collections/tiny/1.md and its pictures", "local.md")])
    assert (to / "local" / "local.md").is_file()
    assert "published already; nothing to do" in _publish(*flags).stdout
    (to / _MODULE / "1.md").write_text("old")
    before = tiny_export.tree(to)
    done = _publish(*flags)
    assert "is published with these bytes" in done.stdout
    assert done.stdout.count("would write") == 1
    assert f"would write {to}/{_MODULE}/1.md" in done.stdout
    assert tiny_export.tree(to) == before

  def test_a_dry_run_refuses_what_would_be_refused(self, export_dir, to):
    tiny_export.write_report(export_dir, status="incomplete", checks=[
        tiny_export.check(group, "all", "not_run" if group == "accuracy"
                          else "passed", "so")
        for group in tiny_export.GROUPS])
    done = _publish(f"--export_dir={export_dir}", f"--to={to}", "--dry_run")
    assert done.returncode == 1
    assert "accuracy/all was not run" in done.stderr

  @pytest.mark.parametrize("scheme", [
      "gs://bucket/x", "s3://bucket/x", "hf://lab/x",
      "kaggle://lab/x/tensorFlow2/y"])
  def test_remote_places_take_no_demo_before_anything_is_asked(
      self, tmp_path, scheme):
    export_dir = _changed(tmp_path, is_demo=True)
    done = _publish(f"--export_dir={export_dir}", f"--to={scheme}")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "publish: local/tiny_classification/1 is a demo")
    assert done.stderr.count("\n") == 1

  def test_refusals_exit_with_1_and_write_nothing(self, export_dir, to):
    tiny_export.report_path(export_dir).unlink()
    done = _publish(f"--export_dir={export_dir}", f"--to={to}")
    assert done.returncode == 1
    assert done.stderr == (
        f"publish: {export_dir} has no report; expected {export_dir}"
        ".checks.json. Check it: python -m checks.check "
        f"--export_dir={export_dir}\n")
    assert not to.exists()

  def test_below_a_file(self, export_dir, tmp_path):
    (tmp_path / "file").write_text("")
    done = _publish(f"--export_dir={export_dir}", f"--to={tmp_path}/file/x")
    assert done.returncode == 1
    assert f"cannot write {tmp_path}/file/x/local" in done.stderr
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr

  @pytest.mark.parametrize("archive, told", [
      ({"sha256": "ab" * 32, "bytes": 7},
       f"tell of an archive with sha256 {'ab' * 32}"),
      (None, "tell of no archive")])
  def test_an_archive_that_report_and_card_do_not_tell_of(
      self, export_dir, to, archive, told):
    tiny_export.write_report(export_dir, archive=archive)
    tiny_export.write_card(export_dir)
    done = _publish(f"--export_dir={export_dir}", f"--to={to}")
    assert done.returncode == 1
    assert told in done.stderr
    assert "Check it: " in done.stderr
    assert not to.exists()

  def test_paths_that_the_system_refuses(self, export_dir, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path, reason in ((tmp_path / ("a" * 300), "File name too long"),
                         (tmp_path / "loop",
                          "Too many levels of symbolic links")):
      for flags, fault in (
          ([f"--export_dir={export_dir}", f"--to={path}"], f"write {path}/"),
          ([f"--export_dir={path}", f"--to={tmp_path}/to"], f"{path}/assets")):
        done = _publish(*flags)
        assert done.returncode == 1
        assert fault in done.stderr and reason in done.stderr
        assert done.stderr.count("\n") == 1  # One message, no traceback.
    assert not (tmp_path / "to").exists()

  @pytest.mark.parametrize("limit", [1000, 25_000])
  def test_no_room(self, tmp_path, to, limit):
    # Two files that do not compress and fit the larger limit; their archive
    # does not.
    export_dir = tiny_export.make(tmp_path / "exports", files={
        "a": os.urandom(20_000), "b": os.urandom(20_000)})
    done = _python("-c", _LIMITED, limit, f"--export_dir={export_dir}",
                   f"--to={to}")
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not to.exists()
    assert _publish(f"--export_dir={export_dir}", f"--to={to}").returncode == 0
    _assert_published(to, export_dir, _UNSIGNED)


class TestCollection:

  def test_lists_what_is_published_there(self, export_dir, to, tmp_path):
    """And not what else was exported."""
    other = tiny_export.make(tmp_path / "exports", "local/other_tiny/1")
    done = _publish(f"--export_dir={export_dir}", f"--to={to}")
    page = to / "local" / "collections" / "tiny" / "1.md"
    assert f"  collection {page}\n" in done.stdout
    assert page.read_text().startswith("# Collection local/tiny/1\n")
    assert "local/tiny_classification/1" in page.read_text()
    assert "other_tiny" not in page.read_text()
    _publish(f"--export_dir={other}", f"--to={to}")
    assert "local/other_tiny/1" in page.read_text()
    assert (to / "local" / "local.md").read_text().startswith(
        "# Publisher local\n")


class TestTrust:
  """What the program adds for people to verify with."""

  def test_sums_are_those_of_sha256sum(self, export_dir, to):
    assert _publish(f"--export_dir={export_dir}", f"--to={to}").returncode == 0
    done = subprocess.run(["sha256sum", "--check", "--strict", "1.SHA256SUMS"],
                          cwd=to / _MODULE, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    named = {line.partition(": ")[0] for line in done.stdout.splitlines()}
    there = {name for name, content in tiny_export.tree(to / _MODULE).items()
             if content is not None}
    assert named == there - {"1.SHA256SUMS"}

  def test_signed_and_verified(self, export_dir, to, tmp_path):
    private, public = tiny_keys.write_pair(tmp_path)
    flags = (f"--export_dir={export_dir}", f"--to={to}")
    done = _publish(*flags, f"--private_key={private}")
    assert (done.returncode, done.stderr) == (0, "")
    _assert_published(to, export_dir, _SIGNED)
    verified = _python("-m", "checks.verify", f"--public_key={public}",
                       f"--export_dir={to / _MODULE / '1'}")
    assert verified.returncode == 0, verified.stderr
    before = tiny_export.tree(to)
    again = _publish(*flags, f"--private_key={private}")
    assert "nothing to do" in again.stdout
    # Without the key: what was signed stays so.
    unsigned = _publish(*flags)
    assert unsigned.returncode == 1
    assert unsigned.stderr.count("\n") == 1
    assert "is published with a signature" in unsigned.stderr
    assert "--private_key" in unsigned.stderr
    assert tiny_export.tree(to) == before

  @pytest.mark.parametrize("flag, status, words", [
      ("--private_key=nowhere.pem", 1, "nowhere.pem"),
      ("--signing_certificate=own.pem", 2, "--private_key")])
  def test_bad_keys(self, export_dir, to, flag, status, words):
    done = _publish(f"--export_dir={export_dir}", f"--to={to}", flag)
    assert done.returncode == status
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not to.exists()


class TestRefusals:

  def test_what_is_in_order_is_read(self, export_dir):
    release = releases.read(export_dir)
    assert str(release.handle) == "local/tiny_classification/1"
    assert release.export_sha256 == tiny_export.digest(export_dir)
    assert release.card.startswith(b"# Module local/tiny_classification/1\n")
    assert json.loads(release.report)["status"] == "passed"

  def _refusal(self, export_dir: pathlib.Path) -> str:
    with pytest.raises(errors.ChecksError) as caught:
      releases.read(export_dir)
    message = str(caught.value)
    assert message.endswith(
        f"python -m checks.check --export_dir={export_dir}")
    return message

  def test_failed_and_not_run_checks_are_named(self, export_dir):
    tiny_export.write_report(export_dir, status="failed", checks=[
        tiny_export.check("structure", "labels", "failed", "999 of 1000"),
        tiny_export.check("accuracy", "top1", "not_run", "no data set"),
        tiny_export.check("numerics", "golden", "passed", "same")])
    message = self._refusal(export_dir)
    assert "  structure/labels failed: 999 of 1000\n" in message
    assert "  accuracy/top1 was not run: no data set\n" in message
    assert "golden" not in message

  @pytest.mark.parametrize("status", ["incomplete", "failed", "", "PASSED"])
  def test_status_is_what_the_checks_come_to(self, export_dir, status):
    tiny_export.write_report(export_dir, status=status)
    assert f"says {status!r}, but its checks come to 'passed'" in self._refusal(
        export_dir)

  def test_a_check_that_did_not_pass_counts_whatever_the_status(
      self, export_dir):
    checks = [tiny_export.check(group, "all", "passed", "")
              for group in tiny_export.GROUPS]
    checks.append(tiny_export.check("accuracy", "top1", "not_run", "no data"))
    tiny_export.write_report(export_dir, checks=checks)
    assert "says 'passed', but its checks come to 'incomplete'" in (
        self._refusal(export_dir))

  @pytest.mark.parametrize("missing", tiny_export.GROUPS)
  def test_every_group_has_to_be_there(self, export_dir, missing):
    checks = [tiny_export.check(group, "all", "passed", "")
              for group in tiny_export.GROUPS if group != missing]
    tiny_export.write_report(export_dir, checks=checks)
    assert "says 'passed', but" in self._refusal(export_dir)
    tiny_export.write_report(export_dir, checks=checks, status="incomplete")
    assert f"{missing}: no check was made" in self._refusal(export_dir)

  @pytest.mark.parametrize("kind, name", [
      ("classifier", "structure/weights"), ("classifier", "accuracy/top1"),
      ("classifier", "card/card"), ("feature_extractor", "numerics/golden"),
      ("feature_extractor", "accuracy/same_as_classifier")])
  def test_every_check_has_to_be_there(self, tmp_path, kind, name):
    export_dir = _changed(tmp_path, render_card=False, kind=kind)
    report = json.loads(tiny_export.report_path(export_dir).read_text())
    # Every group has one that passed all the same.
    tiny_export.write_report(export_dir, checks=[
        tiny_export.check(c["group"], "other" if name == (
            f"{c['group']}/{c['name']}") else c["name"], "passed", "so")
        for c in report["checks"]])
    assert f"  {name}: this check was not made\n" in self._refusal(export_dir)

  def test_a_form_without_known_checks(self, tmp_path):
    with pytest.raises(errors.ChecksError, match="for a classifier of the"):
      releases.read(_changed(tmp_path, render_card=False, form="odd"))

  def test_one_passed_check_is_not_enough(self, export_dir):
    tiny_export.write_report(export_dir, checks=[
        tiny_export.check("structure", "files", "passed", "all there")])
    assert "come to 'incomplete'" in self._refusal(export_dir)

  def test_no_checks_at_all(self, export_dir):
    tiny_export.write_report(export_dir, checks=[], status="incomplete")
    assert "structure: no check was made" in self._refusal(export_dir)

  @pytest.mark.parametrize("change", [
      lambda e: (e / "saved_model.pb").write_bytes(b"Graph" + b"graph" * 39),
      lambda e: (e / "assets" / "more.txt").write_bytes(b""),
      lambda e: (e / "fingerprint.pb").unlink(),
      lambda e: (e / "fingerprint.pb").rename(e / "fingerprint.pb2"),
  ])
  def test_changed_bytes(self, export_dir, change):
    checked = tiny_export.digest(export_dir)
    change(export_dir)
    message = self._refusal(export_dir)
    assert "has changed since it was checked" in message
    assert checked in message and tiny_export.digest(export_dir) in message

  def test_report_of_another_handle(self, export_dir):
    tiny_export.write_report(export_dir,
                             handle="local/tiny_classification/2")
    assert "is the report of local/tiny_classification/2" in self._refusal(
        export_dir)

  @pytest.mark.parametrize("content", [
      "", "{", "[]", "{}", '{"schema_version": 2}',
      '{"schema_version": 1, "handle": "a", "export_sha256": "b",'
      ' "status": "passed", "checks": [{}]}',
      '{"schema_version": 1, "handle": "a", "export_sha256": "b",'
      ' "status": "passed", "checks": 1}'])
  def test_damaged_report(self, export_dir, content):
    tiny_export.report_path(export_dir).write_text(content)
    assert re.search("checks.json (cannot be read|has the schema version 2)",
                     self._refusal(export_dir))

  def test_missing_card(self, export_dir):
    tiny_export.card_path(export_dir).unlink()
    assert "has no card" in self._refusal(export_dir)

  @pytest.mark.parametrize("first", [
      "# Module local/tiny_classification/11",
      "# Module other/tiny_classification/1", ""])
  def test_card_of_another_handle(self, export_dir, first):
    tiny_export.card_path(export_dir).write_text(first + "\n\nText.\n")
    message = self._refusal(export_dir)
    assert (f"begins with {first!r}; expected "
            "'# Module local/tiny_classification/1'") in message

  @pytest.mark.parametrize("right, wrong, told", [
      ("97.50 %", "99.50 %", "row 'Top-1, measured' says 99.5"),
      ("351 of 360", "359 of 360", "row 'Top-1, measured' says"),
      ("4,096", "4,095", "row 'Parameters, trainable' says 4095"),
      ("<!-- license: apache-2.0 -->", "<!-- license: mit -->",
       "license is mit; the manifest says apache-2.0"),
      ("local/tiny_classification/1.tar.gz", "else/tiny_classification/1.zip",
       "asset-path is 'else/tiny_classification/1.zip'"),
      ("## Limits", "It has 12.5 % errors.\n\n## Limits", "'12.5'")])
  def test_card_that_says_something_else(
      self, export_dir, right, wrong, told):
    path = tiny_export.card_path(export_dir)
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong))
    message = self._refusal(export_dir)
    assert f"{path} does not agree with manifest and report" in message
    assert told in message

  def test_card_that_is_no_text(self, export_dir):
    tiny_export.card_path(export_dir).write_bytes(b"# Module \xff")
    assert "1.md is not UTF-8" in self._refusal(export_dir)

  def test_no_export(self, tmp_path):
    with pytest.raises(errors.HubExportError, match="is not an export"):
      releases.read(tmp_path)

  def test_directory_of_all_versions(self, export_dir):
    with pytest.raises(errors.HubExportError,
                       match=f"did you mean {export_dir}?"):
      releases.read(export_dir.parent)


  @pytest.mark.parametrize("dataset, told", [
      ({"name": "imagenette", "split": "test"},
       "is of the data set imagenette, split test; expected pets, split test"),
      ({"name": "pets", "split": "train"}, "is of the data set pets, split "
       "train; expected pets, split test")])
  def test_another_data_set_than_the_cards(self, export_dir, dataset, told):
    tiny_export.write_report(export_dir, dataset={
        "version": "1.0.0", "num_examples": 360, "digest": "e61a" * 16}
        | dataset)
    assert told in self._refusal(export_dir)

  @pytest.mark.parametrize("licence, taken", [
      ("apache-2.0", True), ("MIT", True), ("bsd-3-clause", True),
      ("cc-by-nc-4.0", True), ("custom", False), ("seer", False),
      ("cc-by-nd-4.0", False), ("proprietary", False), ("", False)])
  def test_licences_that_let_others_pass_it_on(
      self, tmp_path, licence, taken):
    release = releases.read(_changed(
        tmp_path, licence={"id": licence, "text": "Terms of its own."}))
    try:
      releases.check_public(release.manifest, "s3://bucket")
    except errors.ChecksError as e:
      assert not taken
      assert f"is {licence!r} (Terms of its own.)" in str(e)
      assert "s3://bucket takes only what others may pass on" in str(e)
      assert "apache-2.0" in str(e) and "--to=published" in str(e)
    else:
      assert taken

  def test_documents_are_added_before_the_card(self, export_dir):
    release = releases.with_documents(
        releases.read(export_dir), [("1.sig", b"1"), ("1.md", b"new")])
    assert [name for name, _ in release.documents][-2:] == ["1.sig", "1.md"]
    assert release.card == b"new"
    assert len(release.documents) == 7


def _changed(output_dir: pathlib.Path, render_card: bool = True,
             **changes: object) -> pathlib.Path:
  """Makes an export with some fields of its manifest changed."""
  export_dir = tiny_export.make(output_dir / "exports")
  path = export_dir / "assets.extra" / "manifest.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  tiny_export.write_report(export_dir)
  if render_card:
    tiny_export.write_card(export_dir)
  return export_dir


class TestChoose:

  def test_a_path_is_a_directory(self, to):
    assert destinations.choose(str(to)).root == to

  @pytest.mark.parametrize("to", ["ftp://host/a", "S3A://b", "file:///tmp/a"])
  def test_other_schemes_are_refused(self, to):
    with pytest.raises(errors.UsageError, match=f"--to={to} is no place"):
      destinations.choose(to)


  @pytest.mark.parametrize("to", [
      "gs:/bucket/x", "s3:bucket", "hf:lab/x", "https:/host", "File:/x"])
  def test_mistyped_addresses_are_no_directories(self, to):
    with pytest.raises(errors.UsageError, match="--to=s3://bucket/prefix"):
      destinations.choose(to)

  @pytest.mark.parametrize("to", [
      "s3://KEY:sEc/ReT@bucket/x", "https://me:sEcReT@host/x",
      "hf://me:sEcReT@lab/x", "kaggle://me:sEcReT@a/b/c"])
  def test_passwords_in_addresses_are_not_shown(self, to):
    with pytest.raises(errors.UsageError) as caught:
      destinations.choose(to)
    assert "--to=" in str(caught.value) and "ReT" not in str(caught.value)

  @pytest.mark.parametrize("to, variable", [
      ("s3://bucket", "AWS_ENDPOINT_URL"), ("hf://a/b", "HF_ENDPOINT"),
      ("gs://bucket", "STORAGE_EMULATOR_HOST")])
  def test_passwords_of_servers_are_not_shown(self, monkeypatch, to, variable):
    monkeypatch.setenv(variable, "https://me:sEcReT@host")
    steps = " ".join(destinations.choose(to).next_steps(
        _HANDLE, forms.by_name("main")))
    assert "https://host/" in steps and "sEcReT" not in steps

  def test_each_module_has_its_own_spot(self):
    for to, expected in [
        ("published", "published"), ("s3://b/{name}", "s3://b/a_b"),
        ("hf://lab/{name}", "hf://lab/a_b"),
        ("kaggle://o/m/tensorFlow2/{name}", "kaggle://o/m/tensorFlow2/a-b")]:
      assert destinations.for_module(to, "a_b") == expected


class TestDirectory:

  def test_other_bytes_under_a_published_version_are_refused(
      self, export_dir, tmp_path, to):
    directory.Directory(to).put(releases.read(export_dir))
    before = tiny_export.tree(to)
    other = tiny_export.make(tmp_path / "other",
                             files=tiny_export.FILES | {"saved_model.pb": b"x"})
    with pytest.raises(errors.HubExportError) as caught:
      directory.Directory(to).put(releases.read(other))
    assert "is published already with other bytes" in str(caught.value)
    assert "Export a new version" in str(caught.value)
    assert tiny_export.tree(to) == before

  def test_card_and_report_of_the_same_bytes_are_renewed(self, export_dir, to):
    directory.Directory(to).put(releases.read(export_dir))
    archive = to / _MODULE / "1.tar.gz"
    before = archive.stat()
    with open(tiny_export.card_path(export_dir), "a") as f:
      f.write("More.\n")
    tiny_export.write_report(export_dir, seconds=7)
    assert directory.Directory(to).put(
        releases.read(export_dir)) is base.Outcome.RENEWED
    _assert_published(to, export_dir)
    assert archive.stat().st_mtime_ns == before.st_mtime_ns
    assert directory.Directory(to).put(
        releases.read(export_dir)) is base.Outcome.UNCHANGED

  def test_what_the_card_links_to_is_published_beside_it(
      self, export_dir, to):
    directory.Directory(to).put(releases.read(export_dir))
    card = (to / _MODULE / "1.md").read_text()
    links = re.findall(r"\]\((1\.evaluations/[^)]+)\)", card)
    assert len(links) == 4
    for link in links:
      assert (to / _MODULE / link).read_bytes() == (
          export_dir.parent / link).read_bytes()

  def test_pictures_of_the_same_bytes_are_renewed(self, export_dir, to):
    directory.Directory(to).put(releases.read(export_dir))
    pictures = export_dir.parent / "1.evaluations"
    (pictures / "pets-test.worst.png").write_bytes(b"drawn anew")
    with pytest.raises(errors.ChecksError, match="1.evaluations/pets-test.worst"
                       ".png beside .* is not what the report says"):
      releases.read(export_dir)
    tiny_export.list_attachments(export_dir)  # The checks were run again.
    assert directory.Directory(to).put(
        releases.read(export_dir)) is base.Outcome.RENEWED
    _assert_published(to, export_dir)

  @pytest.mark.parametrize("left", [1, 0])
  def test_pictures_that_no_card_links_to_any_longer_go(
      self, export_dir, to, left):
    directory.Directory(to).put(releases.read(export_dir))
    for name in sorted(_attachments(export_dir))[left:]:
      (export_dir.parent / "1.evaluations" / name).unlink()
    tiny_export.write_card(export_dir)
    release = releases.read(export_dir)
    assert sum(name.startswith("1.evaluations/")
               for name, _ in release.documents) == left
    with pytest.raises(errors.HubExportError, match="does not belong there"):
      directory.Directory(to).verify(release)
    assert directory.Directory(to).put(release) is base.Outcome.RENEWED
    directory.Directory(to).verify(release)
    _assert_published(to, export_dir)

  def test_a_picture_that_is_gone_is_refused(self, export_dir):
    (export_dir.parent / "1.evaluations" / "pets-test.classes.png").unlink()
    with pytest.raises(errors.ChecksError) as caught:
      releases.read(export_dir)
    assert ("the link to '1.evaluations/pets-test.classes.png' leads nowhere"
            in str(caught.value))

  @pytest.mark.parametrize("attachments", [{}, None, {
      "1.evaluations/pets-test.html": "0" * 64}])
  def test_a_picture_that_the_report_does_not_tell_of(
      self, export_dir, attachments):
    path = tiny_export.report_path(export_dir)
    path.write_text(json.dumps(
        json.loads(path.read_text()) | {"attachments": attachments}))
    with pytest.raises(errors.ChecksError) as caught:
      releases.read(export_dir)
    assert ("1.evaluations/pets-test.classes.png, 1.evaluations/pets-test.html,"
            in str(caught.value))
    assert "is not what the report says" in str(caught.value)

  @pytest.mark.parametrize("link", [
      "1.evaluations/other-test.html", "1.evaluations/pets-test.parquet",
      "1/saved_model.pb", "../../../secret", "1.evaluations/../../secret",
      "/etc/hostname"])
  def test_a_card_cannot_have_other_files_published(
      self, export_dir, tmp_path, link):
    (tmp_path / "secret").write_text("secret")
    with open(tiny_export.card_path(export_dir), "a") as f:
      f.write(f"\n[Look]({link})\n")
    with pytest.raises(errors.ChecksError) as caught:
      releases.read(export_dir)
    assert (f"the link to {link!r} leads to a file that is not published"
            in str(caught.value))

  def test_versions_live_side_by_side(self, export_dir, tmp_path, to):
    ten = tiny_export.make(tmp_path / "exports", f"{_MODULE}/10",
                           {"saved_model.pb": b"ten"})
    two = tiny_export.make(tmp_path / "exports", f"{_MODULE}/2",
                           {"saved_model.pb": b"two"})
    for path in (ten, export_dir, two):
      directory.Directory(to).put(releases.read(path))
    assert [h.version for h in directory.Directory(to).handles()] == [1, 2, 10]

  @pytest.mark.parametrize("missing", [
      "1.tar.gz", "1.md", "1.checks.json", "1"])
  def test_without_any_one_part_it_is_not_published(
      self, export_dir, to, missing):
    destination = directory.Directory(to)
    destination.put(releases.read(export_dir))
    assert destination.exists(_HANDLE)
    (to / _MODULE / missing).rename(to / "elsewhere")
    assert not destination.exists(_HANDLE)
    assert destination.handles() == []

  @pytest.mark.parametrize("part, problem", [
      ("1.tar.gz", "1.tar.gz cannot be read"),
      ("1.md", "1.md differs"),
      ("1.checks.json", "1.checks.json differs"),
      ("1.evaluations/pets-test.html", "pets-test.html differs"),
      ("1/saved_model.pb", "other bytes"),
  ])
  def test_verify_finds_damage(self, export_dir, to, part, problem):
    release = releases.read(export_dir)
    directory.Directory(to).put(release)
    directory.Directory(to).verify(release)
    with open(to / _MODULE / part, "r+b") as f:
      f.truncate(100)
      f.seek(0)
      f.write(b"?")
    with pytest.raises(errors.HubExportError, match=problem):
      directory.Directory(to).verify(release)

  @pytest.mark.parametrize("damage", [
      lambda path: path.unlink(),
      lambda path: path.write_bytes(path.read_bytes()[:100])])
  def test_a_missing_or_damaged_archive_is_made_again(
      self, export_dir, to, damage):
    _publish(f"--export_dir={export_dir}", f"--to={to}")
    archive = to / _MODULE / "1.tar.gz"
    before = tiny_export.tree(to)
    damage(archive)
    done = _publish(f"--export_dir={export_dir}", f"--to={to}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "card, report or pictures were renewed" in done.stdout
    assert tiny_export.tree(to) == before

  @pytest.mark.parametrize("missing", [
      "1.tar.gz", "1.md", "1.checks.json",
      "1.evaluations/pets-test.reliability.png"])
  def test_missing_parts_are_told(self, export_dir, to, missing):
    release = releases.read(export_dir)
    directory.Directory(to).put(release)
    (to / _MODULE / missing).unlink()
    with pytest.raises(errors.HubExportError) as caught:
      directory.Directory(to).verify(release)
    assert f"{to}/{_MODULE}/{missing} is missing" in str(caught.value)
    assert "Publish it again." in str(caught.value)
    # What the message says to do helps.
    assert directory.Directory(to).put(release) is base.Outcome.RENEWED
    _assert_published(to, export_dir)

  def test_an_export_is_not_published_into_itself(self, export_dir, tmp_path):
    before = tiny_export.tree(tmp_path)
    for to in (tmp_path / "exports", export_dir, export_dir / "assets"):
      with pytest.raises(errors.UsageError, match="is where the export lies"):
        directory.Directory(to).put(releases.read(export_dir))
    assert tiny_export.tree(tmp_path) == before

  def test_an_export_that_changes_meanwhile_is_not_published(
      self, export_dir, to):
    release = releases.read(export_dir)
    (export_dir / "saved_model.pb").write_bytes(b"new")
    with pytest.raises(errors.WriteError, match="is being changed"):
      directory.Directory(to).put(release)
    assert not to.exists()

  def test_others_may_read_what_is_published(self, export_dir, to):
    for path in export_dir.rglob("*"):
      path.chmod(0o700)
    old = os.umask(0o077)
    try:
      to.mkdir()
      directory.Directory(to).put(releases.read(export_dir))
    finally:
      os.umask(old)
    for path in (to / _MODULE).rglob("*"):
      assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


  def test_documents_come_and_go(self, export_dir, to):
    destination = directory.Directory(to)
    plain = releases.read(export_dir)
    more = releases.with_documents(plain, [("1.SHA256SUMS", b"sums")])
    destination.put(more)
    destination.verify(more)
    assert (to / _MODULE / "1.SHA256SUMS").read_bytes() == b"sums"
    (to / _MODULE / "10.SHA256SUMS").write_text("another version's")
    assert destination.put(plain) is base.Outcome.RENEWED
    left = {path.name for path in (to / _MODULE).iterdir()}
    assert "10.SHA256SUMS" in left and "1.SHA256SUMS" not in left
    destination.verify(plain)

  def test_what_is_signed_stays_so(self, export_dir, to):
    destination = directory.Directory(to)
    plain = releases.read(export_dir)
    signed = releases.with_documents(plain, [("1.sig", b"{}")])
    destination.put(signed)
    for call in (destination.plan, destination.put):
      with pytest.raises(errors.HubExportError, match="with a signature"):
        call(plain)
    destination.verify(signed)


  def test_another_key_does_not_replace_a_signature(self, export_dir, to,
                                                    tmp_path):
    keys = [tiny_keys.write_pair(tmp_path, name)[0] for name in ("a", "b")]
    release = releases.read(export_dir)
    one, two = (releases.with_documents(release, trust.trusted_documents(
        export_dir, release.documents, signing_keys.load_signer(key)))
                for key in keys)
    destination = directory.Directory(to)
    destination.put(one)
    for call in (destination.plan, destination.put):
      with pytest.raises(errors.HubExportError, match="signature by key .*, and"
                         " now key .*--replace_signature"):
        call(two)
    destination.verify(one)
    assert destination.put(one) is base.Outcome.UNCHANGED
    assert destination.put(dataclasses.replace(
        two, replaces_signature=True)) is base.Outcome.RENEWED
    destination.verify(two)

  def test_an_archive_altered_but_for_its_members(self, export_dir, to):
    release = releases.read(export_dir)
    release = releases.with_documents(
        release, trust.trusted_documents(export_dir, release.documents))
    destination = directory.Directory(to)
    destination.put(release)
    path = to / _MODULE / "1.tar.gz"
    before = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(before), 1))
    with pytest.raises(errors.HubExportError, match="1.tar.gz differs"):
      destination.verify(release)
    assert destination.put(release) is base.Outcome.RENEWED
    assert path.read_bytes() == before

  def test_what_can_be_loaded_comes_last(self, export_dir, to, monkeypatch):
    moved = []
    for name in ("replace", "rename"):
      def watched(source, target, call=getattr(os, name)):
        if "publishing" not in str(target) and "/.tmp" not in str(target):
          moved.append(pathlib.Path(target).name)
        call(source, target)
      monkeypatch.setattr(os, name, watched)
    directory.Directory(to).put(releases.read(export_dir))
    assert moved[-3:] == ["1.md", "1.tar.gz", "1"]


class TestWholeOrNothing:

  def test_killed_at_every_step(self, export_dir, tmp_path):
    release = releases.read(export_dir)
    outcomes = []
    for step in range(1000):
      to = tmp_path / f"published{step}"
      done = _python("-c", _KILLED, export_dir, to, step, *_CHANGES)
      if done.returncode == 0:
        break
      assert done.returncode == -signal.SIGKILL, done.stderr
      destination = directory.Directory(to)
      visible = destination.handles()
      module_dir = to / _MODULE / "1"
      assert visible == ([_HANDLE] if module_dir.exists() else [])
      if visible:
        destination.verify(release)
      outcomes.append(bool(visible))
      expected = (base.Outcome.UNCHANGED if visible
                  else base.Outcome.PUBLISHED)
      assert destination.put(release) is expected
      _assert_published(to, export_dir)
    # All of it was gone through: the first deaths came before the release was
    # visible, the last ones after, and never the other way round.
    assert len(outcomes) > 30
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}

  def test_next_version_cleans_up_after_a_killed_one(
      self, export_dir, tmp_path, to):
    two = tiny_export.make(tmp_path / "exports", f"{_MODULE}/2",
                           {"saved_model.pb": b"two"})
    _python("-c", _KILLED, export_dir, to, 0, "rename")
    left = {path.name for path in (to / _MODULE).iterdir()}
    assert left == {"1.tar.gz", "1.md", "1.checks.json", "1.evaluations",
                    ".publishing-1", ".publish.lock"}
    directory.Directory(to).put(releases.read(two))
    _assert_published(to, two)

  def test_the_killed_programs_own_files_go_but_no_others(
      self, export_dir, to):
    (to / _MODULE).mkdir(parents=True)
    (to / _MODULE / "README").write_text("mine")
    (to / _MODULE / "7.md").write_text("mine too")
    _python("-c", _KILLED, export_dir, to, 2, "replace")
    assert (to / _MODULE / ".publishing-1").exists()
    directory.Directory(to).put(releases.read(export_dir))
    (to / _MODULE / "README").unlink()
    (to / _MODULE / "7.md").unlink()
    _assert_published(to, export_dir)

  @pytest.mark.parametrize("call", ["fsync", "rename", "replace", "mkdir"])
  def test_a_full_disk_at_every_step(
      self, export_dir, tmp_path, monkeypatch, call):
    release = releases.read(export_dir)
    real = getattr(os, call)
    failures = 0
    for step in range(1000):
      to = tmp_path / f"published{step}"
      left = step
      def failing(*args, **kwargs):
        nonlocal left
        left -= 1
        if left == -1:
          raise OSError(28, "No space left on device")
        return real(*args, **kwargs)
      with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        try:
          directory.Directory(to).put(release)
          returned = True
        except errors.WriteError as e:
          assert "No space left on device. Free some space" in str(e)
          returned = False
          failures += 1
      if returned or (to / _MODULE / "1").exists():
        _assert_published(to, export_dir)
      else:
        assert not to.exists()
      if left >= 0:
        break
    # Making a directory that is there already may fail without harm.
    assert failures > 0 if call == "mkdir" else failures == step > 0

  def test_four_publishers_of_the_same_at_once(self, export_dir, to):
    outcomes = self._race([export_dir] * 4, to)
    assert sorted(outcomes) == ["PUBLISHED"] + ["UNCHANGED"] * 3
    _assert_published(to, export_dir)

  def test_four_publishers_of_different_bytes_at_once(self, tmp_path, to):
    exports = [tiny_export.make(
        tmp_path / f"exports{i}",
        files=tiny_export.FILES | {"saved_model.pb": b"%d" % i})
        for i in range(4)]
    outcomes = self._race(exports, to)
    assert sorted(o.split()[0] for o in outcomes) == ["PUBLISHED"] + [
        "REFUSED"] * 3
    _assert_published(to, exports[outcomes.index("PUBLISHED")])

  def _race(self, exports: list[pathlib.Path], to: pathlib.Path) -> list[str]:
    start = str(time.time() + 1.5)
    running = [subprocess.Popen(
        [sys.executable, "-c", _RACING, path, to, start], text=True,
        stdout=subprocess.PIPE, env=_ENVIRONMENT) for path in exports]
    return [p.communicate(timeout=60)[0].strip() for p in running]
