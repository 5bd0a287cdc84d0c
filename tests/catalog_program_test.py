"""The program that lists the catalog, run as it is."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest


def run(*flags, columns=None, **environment):
  env = {k: v for k, v in os.environ.items()
         if k not in ("COLUMNS", "BUILD_WORKING_DIRECTORY")}
  env |= {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
  if columns:
    env["COLUMNS"] = str(columns)
  return subprocess.run(
      [sys.executable, "-m", "hub_export.catalog", *flags], env=env,
      capture_output=True, text=True, check=False)


def listed(*flags, **kwargs):
  """Returns the lines of the table, without its head."""
  done = run(*flags, **kwargs)
  assert (done.returncode, done.stderr) == (0, "")
  return done.stdout.split("\n\n")[0].splitlines()[2:]


def test_lists_all():
  lines = listed()
  assert len(lines) == 179  # One for each published evaluation.
  # By variant, as the paper lists them, and the most accurate first.
  assert lines[0].split() == [
      "pycls:RegNetX-200MF", "*", "regnetx_200mf", "68.91", "88.66", "224",
      "1000", "mit", "at", "first", "use"]
  assert lines[-1].startswith("timm:regnety_2560.seer_ft_in1k ")
  assert sum(" * " in line for line in lines) == 24  # Not 64, 128, 256 GF.


def test_one_variant():
  done = run("--variant=RegNetY006")
  names = [line.split()[0] for line in done.stdout.splitlines()[2:7]]
  assert names == [
      "pycls:RegNetY-600MF", "timm:regnety_006.pycls_in1k", "keras:regnety006",
      "regnety:600mf", "keras:regnety006_notop"]
  assert "5 checkpoints of 1 variant." in done.stdout
  assert ("Best regnety_600mf: pycls:RegNetY-600MF with 75.46 % at 224 px."
          in done.stdout)


def test_larger_images_are_lines_of_their_own():
  lines = listed("--name=timm:regnety_160.*in12k_ft*")
  assert [(line.split()[0], "288" in line) for line in lines] == [
      ("timm:regnety_160.sw_in12k_ft_in1k", True),
      ("timm:regnety_160.lion_in12k_ft_in1k", True),
      ("timm:regnety_160.lion_in12k_ft_in1k", False),
      ("timm:regnety_160.sw_in12k_ft_in1k", False)]
  assert [" * " in line for line in lines] == [True, False, False, False]


@pytest.mark.parametrize("flags, count", [
    (["--source=torchvision"], 34), (["--name=timm:*pycls*"], 24),
    (["--variant=regnety_*", "--source=keras"], 24),
    (["--variant=200mf,x-32gf", "--source=pycls"], 2),
    (["--min_top1=86"], 9), (["--image_size=288"], 8),
    (["--licence=cc-by-nc-4.0"], 12), (["--licence=seer"], 7)])
def test_filters(flags, count):
  """Counted in the published tables."""
  assert len(listed(*flags)) == count


def test_restricted_licences_are_told():
  done = run("--variant=128gf")
  assert ("Best regnety_128gf: none that is free to use; under cc-by-nc-4.0,"
          in done.stdout)
  assert "seer has to be accepted first" in done.stdout


def test_details_of_a_single_match():
  text = run("--name=timm:regnety_120.sw_in12k_ft_in1k").stdout
  for fact in (
      "https://huggingface.co/timm/regnety_120.sw_in12k_ft_in1k/resolve/main/"
      "model.safetensors", "not published; that of the first download",
      "top-1 84.994 %; top-5 97.412 %", "top-1 85.428 %", "ImageNet-12k",
      "shorter side to 235 (bicubic, antialiased); centre 224",
      "timm, results/results-imagenet*.csv", "Apache-2.0", "not yet",
      "python -m hub_export.export --variant=regnety_12gf "
      "--checkpoint=timm:regnety_120.sw_in12k_ft_in1k\n"):
    assert fact in " ".join(text.split()) + "\n"


def test_details_of_what_must_be_accepted():
  text = run("--name=torchvision:regnet_y_16gf/IMAGENET1K_SWAG_E2E_V1",
             BUILD_WORKING_DIRECTORY="/").stdout
  assert ("    ./bazelw run //hub_export:export -- --variant=regnety_16gf "
          "--checkpoint=torchvision:regnet_y_16gf/IMAGENET1K_SWAG_E2E_V1 "
          "--accept_license=cc-by-nc-4.0") in text.splitlines()
  assert "begins with 43afe44d" in text


def test_details_of_several():
  text = run("--details", "--variant=64gf").stdout
  assert text.count("export it with") == 2
  assert "images that are not public" in text


@pytest.mark.parametrize("columns", [100, 72, 60])
def test_fits_the_terminal(columns):
  """The longest name takes 53 characters; the name and top-1 always stand."""
  done = run("--variant=regnety_*", columns=columns)
  assert max(map(len, done.stdout.splitlines())) <= max(columns, 69)
  assert "torchvision:regnet_y_128gf/IMAGENET1K_SWAG_LINEAR_V1" in done.stdout
  assert "86.07" in done.stdout


def test_json():
  records = json.loads(run("--format=json", "--name=regnety:400mf").stdout)
  assert len(records) == 1
  assert (records[0]["top1"], records[0]["top5"]) == (70.19, None)
  assert [url.rsplit(".", 1)[-1] for url in records[0]["urls"]] == [
      "index", "data-00000-of-00001"]
  assert [s["size_px"] for s in records[0]["resizes"]] == [512, 320]


def test_csv():
  rows = list(csv.DictReader(io.StringIO(run("--format=csv").stdout)))
  assert len(rows) == 179
  row, = (r for r in rows if r["name"] == "keras:regnety006")
  assert (row["top1"], row["mean"]) == ("73.52", "0.0 0.0 0.0")
  assert row["sha256"].startswith("98942e07")


def test_cached(tmp_path):
  cache = {"REGNETY_HUB_CACHE": str(tmp_path)}
  done = run("--cached", **cache)
  assert done.returncode == 1 and "--cached" in done.stderr
  place = tmp_path / "pycls_RegNetX-200MF" / "RegNetX-200MF_dds_8gpu.pyth"
  place.parent.mkdir()
  place.write_bytes(b"weights")
  text = run("--cached", **cache).stdout
  assert text.startswith("pycls:RegNetX-200MF\n")
  assert "downloaded    yes" in text


@pytest.mark.parametrize("flags, status, message", [
    (["--min_top1=99"], 1, "no checkpoint of the catalog matches "
     "--min_top1=99"),
    (["--name=keras:regnety007"], 1, "--name=keras:regnety007"),
    (["--variant=800gf"], 2, "unknown variant '800gf'"),
    (["--source=seed"], 2, "source"), (["600mf"], 2, "unexpected argument")])
def test_refusals(flags, status, message):
  done = run(*flags)
  assert (done.returncode, done.stdout) == (status, "")
  assert message in done.stderr and done.stderr.startswith("catalog: ")


def test_help():
  done = run("--help")
  assert done.returncode == 0
  assert "bazel run //hub_export:catalog" in done.stdout
  assert "--min_top1" in done.stdout


def test_output_that_nobody_reads_to_the_end():
  script = f"{sys.executable} -m hub_export.catalog --format=json | head -n 1"
  env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
  done = subprocess.run(["bash", "-o", "pipefail", "-c", script], env=env,
                        capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout, done.stderr) == (0, "[\n", "")


def test_starts_without_tensorflow_and_numpy():
  done = subprocess.run(
      [sys.executable, "-X", "importtime", "-m", "hub_export.catalog"],
      env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
      capture_output=True, text=True, check=True)
  imported = {line.rsplit("|", 1)[-1].strip().split(".")[0]
              for line in done.stderr.splitlines()}
  assert "hub_export" in imported
  assert not imported & {"tensorflow", "numpy", "h5py", "requests"}
