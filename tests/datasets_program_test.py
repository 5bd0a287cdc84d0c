"""The program that lists the data sets, run as it is."""

import os
import subprocess
import sys

import pytest

from checks import known_sets
from tests import tiny_sets


def run(*flags, **environment):
  env = {k: v for k, v in os.environ.items() if k != "BUILD_WORKING_DIRECTORY"}
  env |= {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
  return subprocess.run([sys.executable, "-m", "checks.datasets", *flags],
                        env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """With a whole Imagenette archive's layout, and a damaged ImageNet."""
  data_dir = tmp_path_factory.mktemp("data")
  # Eight images instead of 50,000.
  tiny_sets.prepare("imagenet2012", data_dir,
                    {tiny_sets.VALIDATION: tiny_sets.validation_tar()})
  return data_dir


@pytest.fixture(scope="module")
def overview(data_dir):
  done = run(f"--data_dir={data_dir}")
  assert (done.returncode, done.stderr) == (0, "")
  return done.stdout


class TestOverview:

  def test_a_line_for_each(self, overview):
    lines = overview.split("\n\n")[0].splitlines()
    assert lines[0].split() == ["data", "set", "split", "images", "classes",
                                "size", "status"]
    assert [line.split()[0] for line in lines[1:]] == [
        known.name for known in known_sets.KNOWN_SETS]
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:]}
    assert rows["imagenet2012"] == (
        "validation 50,000 1,000 6.7 GB to get damaged")
    assert rows["imagenet_r"] == "test 30,000 200 2.2 GB to get not prepared"
    assert rows["optical_digits"].startswith("test 360 10 ")
    assert rows["optical_digits"].endswith("kB ready")

  def test_why_one_is_damaged(self, overview):
    assert ("imagenet2012 is damaged: imagenet2012/validation in " in overview)
    assert "has 8 examples; expected 50,000" in overview

  def test_how_to_prepare_each_of_the_others(self, overview, data_dir):
    for known in known_sets.KNOWN_SETS:
      is_told = f"To prepare {known.name}, {known.title}:" in overview
      assert is_told == (known.name not in ("imagenet2012", "optical_digits"))
      if is_told:
        assert (f"checks.datasets --dataset={known.name} "
                f"--data_dir={data_dir} --prepare") in overview
        for archive in known.archives:
          assert (f"{archive.file_name} ({archive.num_bytes:,} bytes), from "
                  f"{archive.page}") in overview
    # The eight images' archive lies where ReaL would need the whole one.
    assert ("ILSVRC2012_img_val.tar has 20,480 bytes; expected 6,744,924,160"
            in overview)
    assert f"1 of {len(known_sets.KNOWN_SETS)} are ready in {data_dir}" in (
        overview)


class TestOne:

  def test_ready(self, tmp_path):
    done = run("--dataset=optical_digits", f"--data_dir={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "status   ready" in done.stdout
    assert f"path     {tmp_path}/optical_digits/1.0.0, " in done.stdout
    assert "test 360, train 1,437; models are measured on test" in done.stdout
    assert "licence  CC BY 4.0" in done.stdout

  def test_not_ready(self, tmp_path):
    done = run("--dataset=imagenet_v2", f"--data_dir={tmp_path}",
               "--manual_dir=/some where")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(
        "imagenet_v2/matched-frequency: ImageNetV2, matched frequency\n"
        "  status   not prepared\n")
    assert ("without a network, first put into /some where, as it is:"
            in done.stdout)
    assert "--prepare --manual_dir='/some where'\n" in done.stdout

  def test_damaged(self, data_dir):
    done = run("--dataset=imagenet2012", f"--data_dir={data_dir}")
    assert (done.returncode, done.stderr) == (1, "")
    assert "status   damaged" in done.stdout
    assert "has 8 examples; expected 50,000" in done.stdout

  def test_folder(self, tmp_path):
    path = tmp_path / "pets" / "val" / "cat"
    path.mkdir(parents=True)
    (path / "a.jpg").write_bytes(tiny_sets.jpeg(1))
    done = run("--dataset=folder:pets", BUILD_WORKING_DIRECTORY=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("folder:pets: the image folder pets\n")
    assert "split    val, 1 images, " in done.stdout

  def test_another_of_tfds_that_is_not_ready(self, tmp_path):
    done = run("--dataset=mnist", f"--data_dir={tmp_path}")
    assert done.returncode == 1
    assert "datasets: the data set mnist is not there" in done.stderr

  def test_unknown(self, tmp_path):
    done = run("--dataset=imagnet2012", f"--data_dir={tmp_path}")
    assert done.returncode == 2
    assert "no data set 'imagnet2012'" in done.stderr


class TestPrepare:

  def test_digits(self, tmp_path):
    done = run("--dataset=optical_digits", f"--data_dir={tmp_path}",
               "--prepare")
    assert done.returncode == 0
    assert f"prepared in {tmp_path}/optical_digits/1.0.0\n" in done.stdout

  def test_archive_missing(self, tmp_path):
    done = run("--dataset=imagenet2012", f"--data_dir={tmp_path}", "--prepare")
    assert done.returncode == 1
    assert "imagenet2012 cannot be prepared without" in done.stderr
    assert "Traceback" not in done.stderr


class TestUsage:

  @pytest.mark.parametrize("flag", ["--prepare", "--manual_dir=x"])
  def test_needs_a_data_set(self, flag):
    done = run(flag)
    assert done.returncode == 2
    assert "expected its name as --dataset" in done.stderr

  def test_help_comes_without_tensorflow(self):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "checks.datasets", "--help"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--manual_dir" in done.stdout
    assert "tensorflow" not in done.stderr
