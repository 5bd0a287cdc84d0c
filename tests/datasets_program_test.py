"""The program that lists the data sets, run as it is."""

import os
import subprocess
import sys

import pytest


def run(*flags, python=(), **environment):
  env = {k: v for k, v in os.environ.items() if k != "BUILD_WORKING_DIRECTORY"}
  env |= {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
  return subprocess.run(
      [sys.executable, *python, "-m", "checks.datasets", *flags], env=env,
      capture_output=True, text=True, check=False)


def test_overview_of_nothing(tmp_path):
  done = run(f"--data_dir={tmp_path}")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("data set ")
  assert "imagenet_v2/topimages          test        10,000" in done.stdout
  assert f"1 of 15 are ready in {tmp_path}" in done.stdout  # The digits.


def test_one_that_is_not_ready(tmp_path):
  done = run("--dataset=imagenet_a", "--data_dir=data", "--manual_dir=got",
             BUILD_WORKING_DIRECTORY=str(tmp_path))
  assert (done.returncode, done.stderr) == (1, "")
  assert done.stdout.startswith("imagenet_a: ImageNet-A\n")
  # Paths are the user's.
  assert (f"./bazelw run //checks:datasets -- --dataset=imagenet_a "
          f"--data_dir={tmp_path}/data --prepare --manual_dir={tmp_path}/got"
          in done.stdout)


def test_prepare(tmp_path):
  done = run("--dataset=optical_digits", f"--data_dir={tmp_path}", "--prepare")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith(
      f"prepared in {tmp_path}/optical_digits/1.0.0\n\n"
      "optical_digits: optical digits (UCI)\n  status   ready\n")


@pytest.mark.parametrize("flag", ["--prepare", "--manual_dir=x"])
def test_needs_a_data_set(flag):
  done = run(flag)
  assert done.returncode == 2
  assert "expected its name as --dataset" in done.stderr


def test_help_comes_without_tensorflow():
  done = run("--help", python=("-X", "importtime"))
  assert done.returncode == 0
  assert "--manual_dir" in done.stdout
  assert " tensorflow" not in done.stderr
