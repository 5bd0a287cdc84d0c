"""Tests of the contestants' processes, of both sides of the pipe."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import PIL.Image
import numpy as np
import pytest

from benchmarks import contest_program
from benchmarks import contestants
from benchmarks import options
from benchmarks import preparation
from benchmarks import processes
from benchmarks import pythons
from benchmarks import targets
from benchmarks import worker as worker_lib
from benchmarks import workers
from checks import meter
from hub_export import errors


@pytest.fixture(name="fake")
def fake_fixture():
  with workers.Worker("somebody", sys.executable, 3, 10.0,
                      "tests.fake_worker") as worker:
    yield worker


class TestProtocol:

  def test_answers(self, fake):
    assert fake.time(1.0, 2) == meter.Turn((0.5, 0.25), 0.125, 0.03)
    assert len(fake.ask("long")["text"]) == 300_000
    assert fake.ask("threads")["omp"] == "3"

  def test_an_error_is_told_and_the_next_answer_comes(self, fake):
    with pytest.raises(errors.HubExportError,
                       match="somebody could not fail: ValueError: no such"):
      fake.ask("fail")
    assert fake.time(1.0, 2).cpu == 0.125

  def test_a_death_is_told_with_its_last_words(self, fake):
    with pytest.raises(errors.HubExportError,
                       match="(?s)exit status 7 .*out of luck"):
      fake.ask("die")
    with pytest.raises(errors.HubExportError, match="exit status 7"):
      fake.ask("time")

  def test_silence_ends(self):
    with workers.Worker("somebody", sys.executable, 1, 0.2,
                        "tests.fake_worker") as worker:
      with pytest.raises(workers.WorkerError,
                         match="not answered for 0.2 s") as e:
        worker.ask("sleep")
      assert e.value.name == "somebody"
      worker.end()  # And the context ends it once more.

  def test_another_python_does_not_see_our_packages(self, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    root = str(pathlib.Path(__file__).absolute().parents[1])
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    theirs = workers.environment("other/python", 2)
    assert theirs["PYTHONPATH"] == root and theirs["PYTHONNOUSERSITE"] == "1"
    ours = workers.environment(sys.executable, 2)
    assert ours["PYTHONPATH"].split(os.pathsep)[-1] == "elsewhere"
    assert "PYTHONNOUSERSITE" not in ours  # TensorFlow may be in there.


class _Model:
  """Twice the mean of an image; its steps' losses count down."""
  versions = {"fake": "1.0"}

  def __init__(self):
    self.calls, self.losses = [], [3.0, 2.0, 1.0, 0.5]

  def call(self, images):
    def run():
      self.calls.append(images.shape)
      return 2 * images.mean((1, 2, 3))
    return run

  def array(self, outputs):
    return outputs[:, np.newaxis]

  def step(self, images, labels):
    assert labels.tolist() == [4, 5]
    return lambda: self.losses.pop(0)


class TestWorker:

  @pytest.fixture(name="model")
  def model_fixture(self, monkeypatch):
    model = _Model()
    monkeypatch.setitem(
        sys.modules, "benchmarks.runtimes.fake",
        types.SimpleNamespace(open_model=lambda task: model))
    return model

  def _opened(self, mode):
    worker = worker_lib.Worker()
    assert worker.answer({"do": "open", "task": {
        "runtime": "fake", "mode": mode}}) == {"versions": {"fake": "1.0"}}
    return worker

  def test_outputs(self, model, tmp_path):
    np.save(tmp_path / "in.npy", np.full((2, 4, 4, 3), 1.5))
    self._opened("infer").answer({
        "do": "outputs", "images": str(tmp_path / "in.npy"),
        "to": str(tmp_path / "out.npy")})
    assert np.load(tmp_path / "out.npy").tolist() == [[3.0], [3.0]]
    assert model.calls == [(2, 4, 4, 3)]

  def test_calls_are_warmed_up_and_counted(self, model, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((5, 4, 4, 3)))
    worker = self._opened("infer")
    assert worker.answer({"do": "ready", "images": str(tmp_path / "in.npy"),
                          "labels": ""}) == {"loss": None}
    assert len(model.calls) == 2
    found = worker.answer({"do": "time", "seconds": 0, "fewest": 4})
    assert len(found["wall"]) == 4 and found["cpu"] >= 0
    assert len(model.calls) == 2 + 1 + 4
    assert worker.answer({"do": "memory"})["peak_bytes"] > 1e7

  def test_the_loss_is_that_of_the_first_step(self, model, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((2, 4, 4, 3)))
    np.save(tmp_path / "labels.npy", np.array([4, 5]))
    worker = self._opened("train")
    assert worker.answer({
        "do": "ready", "images": str(tmp_path / "in.npy"),
        "labels": str(tmp_path / "labels.npy")}) == {"loss": 3.0}
    worker.answer({"do": "time", "seconds": 0, "fewest": 1})
    assert not model.losses  # Two to warm up, and one that was timed.

  def test_its_process_survives_wrong_requests(self):
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker"], text=True,
        input='{"do": "open", "task": {"runtime": "none"}}\n{"do": "memory"}\n',
        env=workers.environment(sys.executable, 1), capture_output=True,
        check=True).stdout.splitlines()
    assert "ModuleNotFoundError" in json.loads(found[0])["error"]
    assert json.loads(found[1])["peak_bytes"] > 0


def _contestant(name, tolerance=1e-3, packages=("json",), form=None):
  return contestants.Contestant(name, "fake", "x", "float32", "keras",
                                packages, tolerance, form,
                                ("//benchmarks:peers", "--torch"))


class _Asked:
  """A worker without a process; one of `tired` fails at its fourth turn."""
  off, tired, ended = {}, (), []

  def __init__(self, name, *_):
    self.name, self._turns = name, 0

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def end(self):
    self.ended.append(self.name)

  def ask(self, do, **request):
    if do == "outputs":
      images = np.load(request["images"])
      np.save(request["to"], images.mean((1, 2)) + self.off.get(self.name, 0))
    return {"open": {"versions": {}}, "outputs": {}, "ready": {"loss": None},
            "memory": {"peak_bytes": 1}}[do]

  def time(self, seconds, fewest):
    del seconds, fewest
    self._turns += 1
    if self.name in self.tired and self._turns > 3:
      raise workers.WorkerError(self.name, "out of memory")
    return meter.Turn((0.25,), 0.25, 0.0)


class TestContest:

  @pytest.fixture(name="prepared")
  def prepared_fixture(self, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "Worker", _Asked)
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 3))
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "fed.npy", images)
    np.save(tmp_path / "keras.npy", images[:2].mean((1, 2)))
    facts = {"losses": {"keras": 1.0}, "convention": "keras",
             "variant": "regnety_200mf", "num_classes": 3}
    return preparation.Prepared(tmp_path, facts, (), "", [sys.executable],
                                lambda text: None)

  def _run(self, prepared, *table):
    plan = contest_program.Plan("infer", table, [1, 4], 8,
                                [targets.Ratio("a", "b", {4: 0.5})], 0, 1)
    return contest_program.run(plan, prepared, options.Setting(1, 2, 0, 0.05),
                               lambda text: None)

  def test_all_take_part(self, prepared):
    found = self._run(prepared, _contestant("a"), _contestant("b"))
    assert not found["missing"]
    assert found["groups"] == {"a": "peers", "b": "peers"}
    assert list(found["batches"]) == ["1", "4"]
    wall = found["batches"]["4"]["figures"]["a"]["wall_ms"]
    assert wall["median"] == 1e3 * 0.25 / 4
    assert found["contestants"]["a"]["difference"] < 1e-9
    # Nobody of these is ours: nothing to compare, and no target is reached.
    assert [t["holds"] for t in found["targets"]] == [None]

  def test_other_outputs_are_no_comparison(self, prepared, monkeypatch):
    monkeypatch.setattr(_Asked, "off", {"b": 0.1})
    found = self._run(prepared, _contestant("a"), _contestant("b"))
    assert "outputs differ from ours" in found["missing"][0]["reason"]
    assert list(found["batches"]["1"]["figures"]) == ["a"]

  def test_missing_packages_are_told_with_their_cure(self, prepared):
    found = self._run(prepared, _contestant("a"),
                      _contestant("b", packages=("json", "no_such_package")))
    missing, = found["missing"]
    assert missing["reason"] == "no_such_package not installed"
    assert missing["install"] in ("python -m benchmarks.peers --torch",
                                  "./bazelw run //benchmarks:peers -- --torch")

  def test_who_fails_between_rounds_is_left_out_and_ended(self, prepared,
                                                          monkeypatch):
    monkeypatch.setattr(_Asked, "tired", ("b",))
    monkeypatch.setattr(_Asked, "ended", [])
    found = self._run(prepared, _contestant("a"), _contestant("b"),
                      _contestant("c"))
    assert [sorted(held["figures"]) for held in found["batches"].values()] == [
        ["a", "b", "c"], ["a", "c"]]
    assert found["missing"] == [
        {"name": "b", "reason": "batch 4: out of memory", "install": ""}]
    assert _Asked.ended == ["b"]  # It is not in the way of the others.

  def test_nobody_gets_to_the_end(self, prepared, monkeypatch):
    monkeypatch.setattr(_Asked, "tired", ("a", "b"))
    found = self._run(prepared, _contestant("a"), _contestant("b"))
    assert list(found["batches"]) == ["1"]
    assert {m["name"] for m in found["missing"]} == {"a", "b"}

  def test_nobody_at_all_is_an_error(self, prepared):
    with pytest.raises(errors.HubExportError, match="nobody can take part"):
      self._run(prepared, _contestant("b", packages=("no_such_package",)))


class TestPythons:

  def test_the_first_that_has_all(self):
    found = pythons.find(("json", "numpy"), [sys.executable])
    assert found.python == sys.executable

  def test_what_the_nearest_one_lacks(self):
    found = pythons.find(("json", "no_such"), [sys.executable])
    assert found == pythons.Found(None, ("no_such",))

  def test_named_ones_come_first_and_have_to_be_there(self, monkeypatch,
                                                      tmp_path):
    monkeypatch.setenv("REGNETY_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv(pythons.VARIABLE, raising=False)
    assert pythons.candidates([]) == (sys.executable,)
    with pytest.raises(errors.UsageError, match="is no program"):
      pythons.candidates([str(tmp_path / "python")])
    monkeypatch.setenv(pythons.VARIABLE, "/bin/sh")
    assert pythons.candidates([]) == ("/bin/sh", sys.executable)

  def test_an_environment_counts_once_it_is_whole(self, monkeypatch, tmp_path):
    monkeypatch.setenv("REGNETY_HUB_CACHE", str(tmp_path))
    directory = pythons.environment_dir(False)
    assert directory != pythons.environment_dir(True)
    (directory / "bin").mkdir(parents=True)
    (directory / "bin" / "python").touch()
    assert pythons.made_python(False) is None
    (directory / pythons.WHOLE).touch()
    assert pythons.made_python(False) == directory / "bin" / "python"

  @pytest.mark.parametrize("with_torch, names", [
      (False, ("onnxruntime", "openvino", "onnx", "ai-edge-litert", "numpy")),
      (True, ("torch", "timm", "numpy"))])
  def test_locks_have_hashes_and_no_addresses(self, with_torch, names):
    text = pythons.lock(with_torch).read_text("utf-8")
    assert "://" not in text and "index-url" not in text
    for name in names:
      assert f"\n{name}==" in text
    blocks = text.replace("\\\n", " ").splitlines()
    pinned = [line for line in blocks if "==" in line[:60] and line[0] != "#"]
    assert len(pinned) > 10
    assert all("--hash=sha256:" in line for line in pinned)


class TestPreparation:

  @pytest.fixture(name="asked")
  def asked_fixture(self, monkeypatch):
    """What is run; it makes the file that its last argument names."""
    asked = []

    def run(python, module, *arguments):
      asked.append((python, module, arguments))
      if module == "benchmarks.made_onnx":
        pathlib.Path(arguments[-1]).write_text("whole")
    monkeypatch.setattr(processes, "run_module", run)
    return asked

  @staticmethod
  def _prepared(directory):
    return preparation.Prepared(
        directory, {"losses": {"keras": 1.0}, "convention": "keras",
                    "variant": "regnety_200mf", "num_classes": 3}, (),
        "weights.h5", ["no/python", sys.executable], lambda text: None)

  def _try(self, prepared, name):
    contestant, = contestants.chosen(contestants.INFERENCE, [name])
    return prepared.task(contestant, "infer", 1, 32)

  def test_int8_is_calibrated_on_our_images(self, asked, tmp_path):
    images = np.random.default_rng(0).uniform(size=(3, 6, 5, 3)).astype("f4")
    np.save(tmp_path / "images.npy", images)
    with pytest.raises(preparation.Missing, match="exporter made nothing"):
      self._try(self._prepared(tmp_path), "lite_int8")
    (python, module, arguments), = asked
    assert (python, module) == (sys.executable, "hub_export.export")
    directory, = [a.partition("=")[2] for a in arguments
                  if a.startswith("--calibration_images=")]
    found = [np.asarray(PIL.Image.open(path))
             for path in sorted(pathlib.Path(directory).iterdir())]
    np.testing.assert_allclose(np.stack(found), 255 * images, atol=0.51)

  def test_no_other_form_is(self, asked, tmp_path):
    for name in ("main", "lite_dynamic", "serving_bf16"):
      with pytest.raises(preparation.Missing, match="exporter made nothing"):
        self._try(self._prepared(tmp_path), name)
    assert len(asked) == 3
    assert not [a for _, _, arguments in asked for a in arguments
                if "calibration" in a]

  @pytest.mark.parametrize("in_bazel, cure", [
      (True, "./bazelw run //benchmarks:inference_forms"),
      (False, "pip install -r tools/python/requirements-forms.txt")])
  def test_a_form_whose_packages_nobody_has(self, in_bazel, cure, asked,
                                            monkeypatch, tmp_path):
    monkeypatch.setattr(pythons, "_installed", lambda python, packages: [
        p for p in packages if p != "tf2onnx"])
    monkeypatch.delenv("BUILD_WORKING_DIRECTORY", raising=False)
    if in_bazel:
      monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    with pytest.raises(preparation.Missing, match="tf2onnx not inst") as e:
      self._try(self._prepared(tmp_path), "onnx")
    assert e.value.cure == cure and not asked

  def test_it_is_exported_by_who_has_them(self, asked, monkeypatch, tmp_path):
    monkeypatch.setattr(pythons, "_installed", lambda python, packages: (
        packages if python == "no/python" else ()))
    with pytest.raises(preparation.Missing, match="exporter made nothing"):
      self._try(self._prepared(tmp_path), "onnx")
    assert asked[0][:2] == ("no/python", "hub_export.export")

  def test_what_was_half_written_is_made_again(self, asked, monkeypatch,
                                               tmp_path):
    monkeypatch.setattr(pythons, "_installed",
                        lambda python, packages: packages)

    def interrupted(python, module, *arguments):
      pathlib.Path(arguments[-1]).write_text("ha")
      raise KeyboardInterrupt
    with monkeypatch.context() as patch:
      patch.setattr(processes, "run_module", interrupted)
      with pytest.raises(KeyboardInterrupt):
        self._try(self._prepared(tmp_path), "onnxruntime")
    path = pathlib.Path(
        self._try(self._prepared(tmp_path), "onnxruntime")["path"])
    assert path.read_text() == "whole" and len(asked) == 1
    self._try(self._prepared(tmp_path), "openvino_bf16")
    assert len(asked) == 1  # It is kept.

  def test_kept_files_are_of_one_checkpoint(self, tmp_path):
    path = tmp_path / "weights.h5"
    path.touch()
    task = {"checkpoint": str(path), "size_px": 32}
    first = preparation.key(task)
    assert preparation.key(task) == first
    assert preparation.key(task | {"size_px": 64}) != first
    os.utime(path, ns=(0, 0))
    assert preparation.key(task) != first


class TestProcesses:

  @pytest.mark.parametrize("said, message", [
      ("UserWarning: old\nexport: the form a needs b.\n  Run this:\n    c\n",
       "the form a needs b.\n  Run this:\n    c"),
      ("export: first\nTraceback (most recent call last):\n  File x\n"
       "ValueError: no such\n  thing", "ValueError: no such\n  thing"),
      ("a.b.OpError: lost", "a.b.OpError: lost"),
      ("nothing of this kind", "nothing of this kind")])
  def test_the_last_message_of_a_program(self, said, message):
    assert processes.last_message(said, "export") == message

  def test_a_failure_is_told_whole(self):
    """By a program of this project, as its user sees it."""
    with pytest.raises(errors.HubExportError) as e:
      processes.run_module(sys.executable, "benchmarks.inference",
                           "--batch_sizes=0")
    assert str(e.value) == (
        "benchmarks.inference ended with exit status 2: --batch_sizes=0: "
        "expected whole numbers from 1 up with commas between them, such as "
        "1,8,32")

  def test_output_is_returned(self):
    assert processes.run_module(
        sys.executable, "benchmarks.inference", "--help").startswith("Measures")

  @pytest.mark.parametrize("tidies", [True, False])
  def test_all_that_was_started_ends(self, monkeypatch, tmp_path, tidies):
    """The process is asked first; its own child, and it, are ended then."""
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 20.0 if tidies else 0.2)
    handler = ("lambda *_: (open(sys.argv[1], 'w').close(), sys.exit())"
               if tidies else "signal.SIG_IGN")
    program = (
        "import signal, subprocess, sys, time\n"
        f"signal.signal(signal.SIGTERM, {handler})\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; "
        "time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n")
    tidied = tmp_path / "tidied"
    with pytest.raises(KeyboardInterrupt):
      with processes.started(
          [sys.executable, "-c", program, str(tidied)], dict(os.environ),
          stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        raise KeyboardInterrupt
    assert process.returncode is not None
    assert tidied.exists() == tidies
    assert _has_ended(child)

  def test_what_others_used_beside_a_whole_run(self):
    found = processes.whole_run(
        [sys.executable, "-c", "sum(range(20_000_000))"])
    assert found["wall"] >= 0.9 * found["cpu"] > 0.05
    assert found["peak_bytes"] > 1e6 and 0 <= found["others"] <= 1
    with pytest.raises(errors.HubExportError, match="SyntaxError"):
      processes.whole_run([sys.executable, "-c", "1 +"])

  def test_first_output(self):
    seconds = processes.first_output_seconds(
        [sys.executable, "-c",
         "import time; time.sleep(0.2); print('x', flush=True); "
         "time.sleep(0.4)"])
    assert 0.2 <= seconds
    with pytest.raises(errors.HubExportError, match="without a text"):
      processes.first_output_seconds([sys.executable, "-c", "pass"])

  def test_memory_of_a_whole_family(self):
    """A child of a child has 64 MB that the first one has not."""
    inner = "x = bytearray(64 << 20); print('there', flush=True); input()"
    outer = ("import subprocess, sys; subprocess.run([sys.executable, '-c', "
             f"{inner!r}])")
    with subprocess.Popen([sys.executable, "-c", outer], text=True,
                          stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
      assert process.stdout.readline() == "there\n"
      found = processes.tree_bytes(process.pid)
      process.communicate("\n")
    assert 64e6 < found < 150e6
    assert processes.tree_bytes(process.pid) == 0


@pytest.mark.parametrize("name, sent", [
    ("inference", signal.SIGINT), ("suite", signal.SIGTERM)])
def test_a_benchmark_that_is_ended_leaves_nothing(name, sent, tmp_path):
  """No process, no temporary directory; one message of each program."""
  mark = f"HUB_TEST_MARK={os.getpid()}-{name}"
  programs = 2 if name == "suite" else 1
  environment = workers.environment(sys.executable, 1) | {
      "TMPDIR": str(tmp_path), **dict([mark.split("=")])}
  with subprocess.Popen(
      [sys.executable, "-m", f"benchmarks.{name}", "--variant=200mf"],
      env=environment, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE) as process:
    assert "Making weights and images\n" in iter(process.stdout.readline, "")
    # And made_weights.
    assert _wait(lambda: len(_marked(mark)) == programs + 1)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
  assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[sent]
  assert said.count("\n") == programs
  assert said.count("nothing half-written was left") == programs
  assert _wait(lambda: not _marked(mark))
  assert not list(tmp_path.iterdir())


def _marked(mark):
  """Returns the processes that have this in their environment."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
    with contextlib.suppress(OSError):
      if mark.encode() in path.read_bytes().split(b"\0"):
        found.append(path.parent.name)
  return found


def _has_ended(pid):
  """Returns whether a process ends soon; one that nobody has waited for has
  ended as well."""
  def ended():
    try:
      stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
      return True
    return stat.rpartition(")")[2].split()[0] == "Z"
  return _wait(ended)


def _wait(holds):
  deadline = time.monotonic() + 30
  while not holds() and time.monotonic() < deadline:
    time.sleep(0.02)
  return holds()
