"""Tests of the contestants' processes, of both sides of the pipe."""

import json
import os
import pathlib
import subprocess
import sys
import types

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
      with pytest.raises(errors.HubExportError, match="not answered for 0 s"):
        worker.ask("sleep")

  def test_another_python_does_not_see_our_packages(self, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    root = str(pathlib.Path(__file__).absolute().parents[1])
    assert workers.environment("other/python", 2)["PYTHONPATH"] == root
    ours = workers.environment(sys.executable, 2)["PYTHONPATH"]
    assert ours.split(os.pathsep)[-1] == "elsewhere"


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
                                packages, tolerance, form, "//benchmarks:peers")


class _Asked:
  """A worker without a process."""
  off = {}

  def __init__(self, name, *_):
    self.name = name

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def ask(self, do, **request):
    if do == "outputs":
      images = np.load(request["images"])
      np.save(request["to"], images.mean((1, 2)) + self.off.get(self.name, 0))
    return {"open": {"versions": {}}, "outputs": {}, "ready": {"loss": None},
            "memory": {"peak_bytes": 1}}[do]

  def time(self, seconds, fewest):
    del seconds, fewest
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
    ours = contestants.Form((), {})
    found = self._run(prepared, _contestant("a", form=None), _contestant("b"))
    assert not found["missing"] and not found["ours"]
    assert list(found["batches"]) == ["1", "4"]
    wall = found["batches"]["4"]["figures"]["a"]["wall_ms"]
    assert wall["median"] == 1e3 * 0.25 / 4
    assert found["contestants"]["a"]["difference"] < 1e-9
    assert ours.file == ""

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
    assert "benchmarks" in missing["install"] and (
        "peers" in missing["install"])

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


class TestProcesses:

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
