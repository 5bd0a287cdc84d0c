"""The evaluate program: on one device, on several, and after kill -9."""

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

import pytest

from checks import predictions
from hub_export import export_dirs
from tests import tiny_saved_model

_ROOT = pathlib.Path(__file__).absolute().parents[1]
# The program, slowed down and keeping what it has at every step.
_SLOW = """
import time
from checks import evaluate, evaluation
from hub_export import program
evaluation._PART_SECONDS = -1
logits = evaluation.Model.logits
def slow(self, images):
  time.sleep(0.05)
  return logits(self, images)
evaluation.Model.logits = slow
program.run(evaluate.main)
"""


@pytest.fixture(scope="module", name="data_dir")
def _data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module", name="exported")
def _exported(tmp_path_factory, data_dir):
  """Both modules, and what one device makes of the classifier."""
  output_dir = tmp_path_factory.mktemp("exports")
  for kind in ("classifier", "feature_extractor"):
    tiny_saved_model.write(output_dir, data_dir, kind)
  _run(_module(output_dir), data_dir)
  return output_dir


@pytest.fixture(name="exports")
def _exports(exported, tmp_path):
  """A copy of both modules, not evaluated."""
  shutil.copytree(exported, tmp_path, dirs_exist_ok=True,
                  ignore=shutil.ignore_patterns("*.evaluations"))
  return tmp_path


def _module(output_dir, kind="classification"):
  return output_dir / "local" / f"tiny_digits_{kind}" / "1"


def _start(export_dir, data_dir, *flags, program=("-m", "checks.evaluate"),
           **environment):
  return subprocess.Popen(
      [sys.executable, *program, f"--export_dir={export_dir}",
       f"--data_dir={data_dir}", *flags], text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, env=os.environ | {
          "PYTHONPATH": str(_ROOT)} | environment)


def _run(export_dir, data_dir, *flags, status=0, **environment):
  process = _start(export_dir, data_dir, *flags, **environment)
  out, err = process.communicate()
  assert process.returncode == status, f"{out}\n{err}"
  assert "Traceback" not in err
  return out, err


def _read(export_dir):
  return predictions.read(export_dirs.evaluation_path(
      export_dir, "optical_digits", "test", ".parquet"))


def test_several_devices_count_as_one(exports, exported, data_dir):
  out, _ = _run(_module(exports), data_dir, "--strategy=mirrored",
                "--cpu_devices=2")
  one, about = _read(_module(exported))
  two, context = _read(_module(exports))
  assert (two.digest(), two.top1, two.top5) == (one.digest(), one.top1,
                                                one.top5)
  assert context == about  # So that the checks take it over.
  assert f"{one.top1.correct} of 360" in out


def test_two_workers_count_as_one_process(exports, exported, data_dir):
  """A feature extractor, each worker on its half of the images."""
  with socket.socket() as a, socket.socket() as b:
    a.bind(("localhost", 0))
    b.bind(("localhost", 0))
    workers = [f"localhost:{s.getsockname()[1]}" for s in (a, b)]
  export_dir = _module(exports, "feature_extractor")
  running = [_start(export_dir, data_dir, "--strategy=multi_worker",
                    TF_CONFIG=json.dumps({
                        "cluster": {"worker": workers},
                        "task": {"type": "worker", "index": i}}))
             for i in range(2)]
  outs = []
  for process in running:
    out, err = process.communicate()
    assert process.returncode == 0, f"{out}\n{err}"
    outs.append(out)
  one, _ = _read(_module(exported))
  both, _ = _read(export_dir)
  assert (both.digest(), both.top5) == (one.digest(), one.top5)
  assert f"{one.top1.correct} of 360" in outs[0]
  assert "worker 1 of 2 is done" in outs[1]


def test_goes_on_after_kill_9(exports, exported, data_dir):
  export_dir = _module(exports)
  parts = export_dirs.evaluation_path(
      export_dir, "optical_digits", "test", ".parts")
  process = _start(export_dir, data_dir, "--batch_size=16",
                   program=("-c", _SLOW))
  while process.poll() is None and len(list(parts.glob("*.parquet"))) < 3:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  out, _ = _run(export_dir, data_dir, "--batch_size=16")
  before = int(re.search(r"(\d+) images had been evaluated before", out)[1])
  assert 48 <= before < 360
  whole, _ = _read(_module(exported))
  assert _read(export_dir)[0].digest() == whole.digest()
  assert not parts.exists()


@pytest.mark.parametrize("flags, environment, status, words", [
    (["--strategy=multi_worker"], {}, 2, ["TF_CONFIG", "not set", "index"]),
    (["--strategy=multi_worker"], {"TF_CONFIG": "{}"}, 2, ["is wrong"]),
    (["--strategy=multi_worker", "--fresh"], {}, 2, ["1.evaluations"]),
    (["--strategy=tpu"], {}, 1, ["no TPU", "--strategy=default"]),
    (["--strategy=gpu"], {}, 2, ["mirrored"]),
    (["--dataset=imagnet"], {}, 2, ["imagnet"]),
    (["--dataset=imagenette", "--split=validation"], {}, 1,
     ["imagenette", "Prepare it"]),
])
def test_bad_input(exported, data_dir, flags, environment, status, words):
  _, err = _run(_module(exported), data_dir, *flags, status=status,
                **environment)
  for word in words:
    assert word in err
