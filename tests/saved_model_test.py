"""Tests of writing: whole or not at all, never over another version.

Processes that are to die, or to meet another, are forked from a server that
has imported TensorFlow but run nothing with it: half a second each.
"""

import concurrent.futures
import contextlib
import ctypes
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from hub_export import canonical
from hub_export import errors
from hub_export import export_dirs
from hub_export import saved_model
from tests import tiny_export
from tests import tiny_module

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tensorflow", "pytest"])
_TIMEOUT_SECONDS = 120
_FILES = [
    "assets.extra/golden.npz", "assets.extra/manifest.json",
    "assets/labels.txt", "fingerprint.pb", "saved_model.pb",
    "variables/variables.data-00000-of-00001", "variables/variables.index"]
# File sizes at which a write fails. The variables' two files have 325 and 1863
# bytes, the graph some 43,000; one limit lies in each and one in none.
_LIMITS = (0, 100, 1000, 10_000)


def _write(output_dir, force=False, **changes):
  return saved_model.write(tiny_module.make(**changes), output_dir, "local",
                           force)


def _names(model_dir):
  return sorted(path.name for path in model_dir.iterdir())


class TestVersions:

  def test_count_up_and_stay_as_they_are(self, tmp_path):
    model_dir = tmp_path / "local" / tiny_module.NAME
    first = _write(tmp_path)
    assert first == saved_model.Written(model_dir / "1", is_new=True)
    before = tiny_export.tree(model_dir / "1")

    again = _write(tmp_path)
    assert again == saved_model.Written(model_dir / "1", is_new=False)
    assert _names(model_dir) == ["1"]

    forced = _write(tmp_path, force=True)
    assert forced == saved_model.Written(model_dir / "2", is_new=True)
    other_weights = _write(tmp_path, seed=1)
    assert other_weights == saved_model.Written(model_dir / "3", is_new=True)
    # Any version counts, the newest of them first.
    assert _write(tmp_path) == saved_model.Written(
        model_dir / "2", is_new=False)
    other_manifest = _write(tmp_path, title="Another")
    assert other_manifest == saved_model.Written(model_dir / "4", is_new=True)

    assert _names(model_dir) == ["1", "2", "3", "4"]
    assert tiny_export.tree(model_dir / "1") == before
    for version in "1234":
      manifest = export_dirs.read_manifest(model_dir / version)
      assert manifest["handle"] == f"local/{tiny_module.NAME}/{version}"
    weights = {
        (model_dir / v / "variables" / "variables.data-00000-of-00001")
        .read_bytes() for v in "124"}
    assert len(weights) == 1

  @pytest.mark.parametrize("left", ["7.md", "7.checks.json"])
  def test_number_of_a_removed_one_is_not_used_again(self, tmp_path, left):
    _write(tmp_path)
    model_dir = tmp_path / "local" / tiny_module.NAME
    (model_dir / left).write_text("of a version that someone removed")
    assert _write(tmp_path, seed=1).export_dir == model_dir / "8"
    assert (model_dir / left).read_text() == "of a version that someone removed"

  def test_other_files_that_begin_with_digits_do_not_count(self, tmp_path):
    _write(tmp_path)
    model_dir = tmp_path / "local" / tiny_module.NAME
    others = ["20240101_notes.txt", "07.md", "3x", "1234567890.md"]
    for name in others:
      (model_dir / name).write_text("notes")
    assert _write(tmp_path, seed=1).export_dir == model_dir / "2"
    assert _names(model_dir) == sorted(["1", "2", *others])

  def test_what_is_called_like_a_temporary_directory_stays(self, tmp_path):
    model_dir = tmp_path / "local" / tiny_module.NAME
    (model_dir / ".tmp-killed").mkdir(parents=True)
    (model_dir / ".tmp-note").write_text("mine")
    (model_dir / ".tmp-link").symlink_to(tmp_path)
    assert saved_model.clean(model_dir) == [model_dir / ".tmp-killed"]
    assert _write(tmp_path).is_new
    assert _names(model_dir) == [".tmp-link", ".tmp-note", "1"]

  def test_tenth_follows_the_ninth(self, tmp_path):
    model_dir = tmp_path / "local" / tiny_module.NAME
    written = _write(tmp_path).export_dir
    written.rename(model_dir / "9")
    assert _write(tmp_path, seed=1).export_dir == model_dir / "10"
    assert _write(tmp_path, seed=1) == saved_model.Written(
        model_dir / "10", is_new=False)

  @pytest.mark.parametrize("name", [
      "saved_model.pb", "assets/labels.txt", "assets.extra/manifest.json",
      "assets.extra/golden.npz"])
  def test_damaged_newest_is_not_taken_for_the_same(self, tmp_path, name):
    path = _write(tmp_path).export_dir / name
    path.write_bytes(path.read_bytes()[:-1])
    damaged = tiny_export.tree(tmp_path)
    written = _write(tmp_path)
    assert written.is_new and written.export_dir.name == "2"
    after = tiny_export.tree(tmp_path)
    assert {k: after[k] for k in damaged} == damaged

  def test_missing_or_extra_file_is_not_the_same(self, tmp_path):
    export_dir = _write(tmp_path).export_dir
    (export_dir / "assets" / "notes.txt").write_text("x")
    assert _write(tmp_path).export_dir.name == "2"
    model_dir = export_dir.parent
    (model_dir / "2" / "fingerprint.pb").unlink()
    assert _write(tmp_path).export_dir.name == "3"
    (model_dir / "3" / "assets" / "link").symlink_to("labels.txt")
    assert _write(tmp_path).export_dir.name == "4"
    assert not _write(tmp_path).is_new


class TestContent:

  def test_is_the_module_and_what_goes_with_it(self, tmp_path):
    module = tiny_module.make()
    export_dir = saved_model.write(module, tmp_path, "ada").export_dir
    assert sorted(p.relative_to(export_dir).as_posix()
                  for p in export_dir.rglob("*") if p.is_file()) == _FILES
    labels = b"cat\ndog\neel\nfox\n"
    assert (export_dir / "assets/labels.txt").read_bytes() == labels
    manifest = json.loads(
        (export_dir / "assets.extra/manifest.json").read_bytes())
    assert manifest["schema_version"] == 1
    assert manifest["handle"] == "ada/tiny_classification/1"
    assert manifest["companion"] == "ada/tiny_feature_extractor"
    assert manifest["labels"] == {
        "file": "assets/labels.txt", "count": 4,
        "sha256": hashlib.sha256(labels).hexdigest()}
    assert manifest["software"]["tensorflow"] == tf.__version__
    golden = np.load(export_dir / "assets.extra/golden.npz")
    np.testing.assert_array_equal(golden["images"], module.golden_images)
    np.testing.assert_array_equal(golden["outputs"], module.golden_outputs)
    loaded = tf.saved_model.load(str(export_dir))
    np.testing.assert_allclose(loaded(golden["images"]), golden["outputs"],
                               rtol=1e-6)

  def test_is_readable_for_everybody(self, tmp_path):
    export_dir = _write(tmp_path).export_dir
    for path in [export_dir, *export_dir.rglob("*")]:
      mode = stat.S_IMODE(path.stat().st_mode)
      assert mode == (0o755 if path.is_dir() else 0o644), path


# What children do. Each runs in a process of its own.


class _Events:
  """Calls `act` before each operation on files below a directory.

  Python reports its own operations as audit events; TensorFlow's first one on a
  new directory and those that write its protocol buffers are added by hand.
  """

  def __init__(self, directory, act):
    self._directory, self._act = str(directory), act
    self.count = 0
    from tensorflow.python.lib.io import file_io  # pylint: disable=g-import-not-at-top
    for name in ("recursive_create_dir", "atomic_write_string_to_file"):
      setattr(file_io, name, self._reporting(name, getattr(file_io, name)))
    sys.addaudithook(self._hook)

  def _reporting(self, name, function):
    def reporting(path, *args, **kwargs):
      self._hook(f"tensorflow.{name}", (path,))
      return function(path, *args, **kwargs)
    return reporting

  def _hook(self, event, args):
    if (event == "open" or event.startswith(("os.", "shutil.", "tensorflow."))
        ) and args and str(args[0]).startswith(self._directory):
      self.count += 1
      self._act(event, self.count)


def _job_count(output_dir):
  module = tiny_module.make()
  events = _Events(output_dir, lambda event, number: None)
  saved_model.write(module, output_dir, "local")
  return events.count


def _job_die(output_dir, number):
  """Writes until operation `number`, then dies as by kill -9."""
  module = tiny_module.make()
  _Events(output_dir, lambda _, n: n != number or os.kill(
      os.getpid(), signal.SIGKILL))
  saved_model.write(module, output_dir, "local")


def _job_limited(output_dir, size, action):
  """Writes while no file may grow beyond `size` bytes."""
  module = tiny_module.make()
  # The limit holds for a log file as well, which Bazel makes of the output.
  with open(os.devnull, "w", encoding="utf-8") as null:
    os.dup2(null.fileno(), 1)
    os.dup2(null.fileno(), 2)
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  signal.signal(signal.SIGXFSZ, action)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
  saved_model.write(module, output_dir, "local")


def _job_write_all(output_dirs):
  module = tiny_module.make()
  return [saved_model.write(module, d, "local") for d in output_dirs]


def _job_stop(output_dir, event, number, seconds, changes, force):
  """Writes; at the `number`-th `event` touches "here", then waits."""
  module = tiny_module.make(**changes)
  seen = []
  go = output_dir.with_name("go")
  def act(name, _):
    if name == event:
      seen.append(name)
      if len(seen) == number:
        output_dir.with_name(f"here{os.getpid()}").touch()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not go.exists():
          time.sleep(0.02)
  _Events(output_dir, act)
  return saved_model.write(module, output_dir, "local", force)


def _job_without_capabilities(output_dir):
  """Writes as root no more: by the modes of files alone."""
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
  assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
  return _write(output_dir)


def _child(connection, job, args):
  try:
    connection.send(job(*args))
  except errors.HubExportError as e:
    connection.send(e)


def _run(job, *args):
  """Returns a child's exit status and what it returned or raised, or None."""
  receiver, sender = _PROCESSES.Pipe(duplex=False)
  process = _PROCESSES.Process(target=_child, args=(sender, job, args))
  process.start()
  sender.close()
  result = None
  with contextlib.suppress(EOFError):  # It died.
    if receiver.poll(_TIMEOUT_SECONDS):
      result = receiver.recv()
  process.join(_TIMEOUT_SECONDS)
  if process.exitcode is None:
    process.kill()
  return process.exitcode, result


def _run_all(jobs):
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    return list(pool.map(lambda job: _run(*job), jobs))


@pytest.fixture(name="reference", scope="module")
def _reference(tmp_path_factory):
  """Digest of the version 1 that all these processes are to write."""
  export_dir = _write(tmp_path_factory.mktemp("reference")).export_dir
  return export_dirs.digest(export_dir)


def _check_killed(output_dirs, reference):
  """Checks what the dead left, and that the next run makes it good.

  Returns:
    How many versions were there, and how many temporary directories.
  """
  model_dirs = [d / "local" / tiny_module.NAME for d in output_dirs]
  there, temporaries = [], 0
  for model_dir in model_dirs:
    names = _names(model_dir) if model_dir.exists() else []
    there.append("1" in names)
    assert all(n == "1" or n.startswith(".tmp-") for n in names), names
    assert export_dirs.versions(model_dir) == ([1] if there[-1] else [])
    if there[-1]:
      assert export_dirs.digest(model_dir / "1") == reference
    temporaries += len(names) - there[-1]
  status, written = _run(_job_write_all, output_dirs)
  assert status == 0
  for model_dir, was_there, result in zip(
      model_dirs, there, written, strict=True):
    assert result == saved_model.Written(model_dir / "1", not was_there)
    assert _names(model_dir) == ["1"]
    assert export_dirs.digest(model_dir / "1") == reference
  return sum(there), temporaries


class TestKilled:

  def test_at_every_operation(self, tmp_path, reference):
    status, count = _run(_job_count, tmp_path / "count")
    assert status == 0 and count > 40
    # The files' modes and flushing, one like another, are sampled.
    numbers = sorted({*range(1, 30), *range(30, count, 4),
                      *range(count - 5, count + 1)})
    output_dirs = [tmp_path / f"out{n}" for n in numbers]
    killed = _run_all([(_job_die, d, n)
                       for d, n in zip(output_dirs, numbers, strict=True)])
    assert {status for status, _ in killed} == {-signal.SIGKILL}
    versions, temporaries = _check_killed(output_dirs, reference)
    # Before the rename, and after it.
    assert versions >= 1 and temporaries > 25

  def test_in_the_middle_of_a_file(self, tmp_path, reference):
    output_dirs = [tmp_path / f"out{size}" for size in _LIMITS]
    killed = _run_all([(_job_limited, d, size, signal.SIG_DFL)
                       for size, d in zip(_LIMITS, output_dirs)])
    assert {status for status, _ in killed} == {-signal.SIGXFSZ}
    versions, temporaries = _check_killed(output_dirs, reference)
    assert (versions, temporaries) == (0, len(_LIMITS))

  def test_older_versions_stay(self, tmp_path):
    first = _write(tmp_path, seed=1).export_dir
    before = tiny_export.tree(first)
    assert _run(_job_die, tmp_path, 30)[0] == -signal.SIGKILL
    assert len(_names(first.parent)) == 2
    assert saved_model.clean(first.parent) != []
    assert _names(first.parent) == ["1"]
    assert tiny_export.tree(first) == before


class TestSeveralWriters:

  def _pair(self, output_dir, event, number, changes, force=False):
    """Two at the same time; each rests where its first could err."""
    return _run_all([
        (_job_stop, output_dir, event, number, 1.5, change, force)
        for change in changes])

  @pytest.mark.parametrize("changes, force", [
      (({"seed": 1}, {"seed": 2}), False), (({}, {}), True)])
  def test_get_a_version_each(self, tmp_path, changes, force):
    output_dir = tmp_path / "out"
    ran = self._pair(output_dir, "os.rename", 1, changes, force)
    assert [status for status, _ in ran] == [0, 0]
    written = [result for _, result in ran]
    assert all(w.is_new for w in written)
    model_dir = output_dir / "local" / tiny_module.NAME
    assert {w.export_dir for w in written} == {model_dir / "1", model_dir / "2"}
    assert _names(model_dir) == ["1", "2"]
    for change, (_, result) in zip(changes, ran, strict=True):
      module = tiny_module.make(**change)
      loaded = tf.saved_model.load(str(result.export_dir))
      np.testing.assert_allclose(
          loaded(module.golden_images), module.golden_outputs, rtol=1e-5)

  def test_of_the_same_content_make_one(self, tmp_path):
    output_dir = tmp_path / "out"
    ran = self._pair(output_dir, "os.rename", 1, ({}, {}))
    assert [status for status, _ in ran] == [0, 0]
    assert sorted(result.is_new for _, result in ran) == [False, True]
    assert _names(output_dir / "local" / tiny_module.NAME) == ["1"]

  @pytest.mark.parametrize("event", ["lock", "mkdtemp"])
  def test_one_that_failed_may_take_the_empty_directory_away(
      self, tmp_path, monkeypatch, event):
    """It does so just before the other locks, or writes into, it."""
    model_dir = tmp_path / "local" / tiny_module.NAME
    calls = []
    def taking_away(function):
      def wrapped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
          model_dir.rmdir()
          model_dir.parent.rmdir()
        return function(*args, **kwargs)
      return wrapped
    module = export_dirs if event == "lock" else tempfile
    monkeypatch.setattr(module, event, taking_away(getattr(module, event)))
    assert _write(tmp_path) == saved_model.Written(model_dir / "1", True)
    assert len(calls) > 1
    assert _names(model_dir) == ["1"]

  @pytest.mark.parametrize("event", [
      "tensorflow.atomic_write_string_to_file", "os.chmod"])
  def test_another_cleans_only_after_the_dead(self, tmp_path, event):
    """One waits in the middle; another cleans, or writes, meanwhile."""
    output_dir = tmp_path / "out"
    model_dir = output_dir / "local" / tiny_module.NAME
    dead = model_dir / ".tmp-dead"
    dead.mkdir(parents=True)
    (dead / "saved_model.pb").write_bytes(b"half")
    ran = []
    waiting = threading.Thread(target=lambda: ran.append(_run(
        _job_stop, output_dir, event, 1, 30, {"seed": 1}, False)))
    waiting.start()
    while not list(tmp_path.glob("here*")):
      assert waiting.is_alive()
      time.sleep(0.02)
    assert not dead.exists()  # The one that waits began with cleaning.
    dead.mkdir()
    if event == "os.chmod":  # It holds the module's lock to its end.
      (tmp_path / "go").touch()
    assert saved_model.clean(model_dir) == [dead]
    (tmp_path / "go").touch()
    waiting.join(_TIMEOUT_SECONDS)
    (status, result), = ran
    assert status == 0
    assert result == saved_model.Written(model_dir / "1", is_new=True)
    assert _names(model_dir) == ["1"]


class TestTargets:

  def test_too_full(self, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type(usage)(
        usage.total, usage.total - 1_200_000, 1_200_000))
    with pytest.raises(errors.WriteError, match="1.2 MB are free") as e:
      _write(tmp_path / "exports")
    assert "--output_dir" in str(e.value)
    assert list(tmp_path.iterdir()) == []

  @pytest.mark.parametrize("size", _LIMITS)
  def test_full_while_writing(self, tmp_path, size):
    status, raised = _run(_job_limited, tmp_path / "exports", size,
                          signal.SIG_IGN)
    assert status == 0
    assert isinstance(raised, errors.WriteError)
    assert str(tmp_path / "exports") in str(raised)
    assert list(tmp_path.iterdir()) == []

  def test_below_a_file(self, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(errors.WriteError, match="Not a directory"):
      _write(tmp_path / "file" / "exports")
    assert tiny_export.tree(tmp_path) == {"file": b"a file"}

  def test_version_number_is_no_directory(self, tmp_path):
    model_dir = tmp_path / "local" / tiny_module.NAME
    model_dir.mkdir(parents=True)
    (model_dir / "1").write_text("a file")
    assert _write(tmp_path).export_dir == model_dir / "2"
    assert (model_dir / "1").read_text() == "a file"

  def test_read_only(self, tmp_path):
    tmp_path.chmod(0o555)
    status, raised = _run(_job_without_capabilities, tmp_path / "exports")
    assert status == 0
    assert isinstance(raised, errors.WriteError)
    assert "Permission denied" in str(raised)
    assert "may write" in str(raised)
    assert list(tmp_path.iterdir()) == []

  def test_name_too_long(self, tmp_path):
    with pytest.raises(errors.WriteError, match="name too long"):
      saved_model.write(tiny_module.make(), tmp_path / "exports", "a" * 300)
    assert list(tmp_path.iterdir()) == []

  @pytest.mark.parametrize("publisher", ["", "Ada", "../ada", "a/b"])
  def test_bad_publisher(self, tmp_path, publisher):
    with pytest.raises(errors.UsageError, match="publisher"):
      saved_model.write(tiny_module.make(), tmp_path, publisher)
    assert list(tmp_path.iterdir()) == []

  def test_interrupted(self, tmp_path, monkeypatch):
    def interrupt(directory):
      assert (directory / "saved_model.pb").exists()
      raise KeyboardInterrupt
    monkeypatch.setattr(canonical, "canonicalise", interrupt)
    with pytest.raises(KeyboardInterrupt):
      _write(tmp_path / "exports")
    assert list(tmp_path.iterdir()) == []

  def test_failure_leaves_what_was_there(self, tmp_path, monkeypatch):
    _write(tmp_path)
    before = tiny_export.tree(tmp_path)
    def fail(path):
      raise OSError(28, "No space left on device")
    monkeypatch.setattr(export_dirs, "fsync", fail)
    with pytest.raises(errors.WriteError, match="Free some space"):
      _write(tmp_path, seed=1)
    assert tiny_export.tree(tmp_path) == before
