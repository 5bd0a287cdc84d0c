"""The benchmark of inference from weights to table, with a small network."""

import json
import subprocess
import sys

import PIL.Image
import numpy as np

from benchmarks import made_weights
from benchmarks import workers
from hub_export.regnet import network
from hub_export.regnet import reference
from hub_export.regnet import variants


def test_a_small_network_beside_tf_keras(tmp_path):
  """Also says who is missing: whoever needs a package that nobody has."""
  result = subprocess.run(
      [sys.executable, "-m", "benchmarks.inference", "--variant=200mf",
       "--image_size=32", "--batch_sizes=1,3", "--rounds=2",
       "--spare_rounds=0", "--turn_seconds=0", "--max_others=100",
       "--contestants=main,tf_keras,timm", f"--output_dir={tmp_path}"],
      text=True, capture_output=True, check=False,
      # A cache of its own has no environment of peers.
      env=workers.environment(sys.executable, 2) | {
          "REGNETY_HUB_CACHE": str(tmp_path / "cache"), "HUB_PEERS_PYTHON":
          sys.executable})
  assert result.returncode == 0, result.stderr
  found = json.loads((tmp_path / "inference.json").read_text())
  for size in ("1", "3"):
    held = found["batches"][size]
    assert held["rounds"] == 2 and held["is_quiet"]
    assert set(held["figures"]) == {"main", "tf_keras"}
    assert held["figures"]["main"]["cpu_ms"]["median"] > 0
    assert f"Batch {size}" in result.stdout
  # The very same weights: another rounding, and no more.
  assert all(c["difference"] < 1e-4 for c in found["contestants"].values())
  assert found["weights"]["parameters"] == 3183844
  assert "tensorflow" in found["contestants"]["main"]["versions"]
  # Of batch 1 alone there is a target.
  assert [(t["ours"], t["theirs"], t["batch"], t["limit"])
          for t in found["targets"]] == [("main", "tf_keras", 1, 0.53)]
  assert found["targets"][0]["wall"] == (
      found["batches"]["1"]["ratios"]["main"]["tf_keras"]["wall"])
  assert result.stdout.index("Targets") < result.stdout.index("Batch 1 ")
  missing, = found["missing"]
  assert missing["name"] == "timm" and "not installed" in missing["reason"]
  assert "Did not take part:\n  timm: " in result.stdout
  assert PIL.Image.open(tmp_path / "inference.png").format == "PNG"


def test_made_weights_keep_activations_in_bounds(tmp_path):
  """And are what the reference makes of them, by every one's names."""
  arch = variants.architectures(variants.by_name("200mf"), "keras")[0]
  tensors = made_weights.made_up(arch, 10)
  images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(
      np.float32)
  logits, loss = made_weights.outcome(
      network.Network(arch, tensors, (0,) * 3, (1,) * 3), images,
      np.array([3, 4]))
  _, expected = reference.outputs(tensors, "keras", (0,) * 3, (1,) * 3, images)
  assert 0.1 < expected.std() < 10
  np.testing.assert_allclose(logits, expected, atol=1e-3 * expected.std())
  assert 0 < loss < 20
  made_weights.write_named(tmp_path, variants.by_name("200mf"), tensors)
  with np.load(tmp_path / "timm.npz") as timm:
    assert timm["s1.b1.conv2.conv.weight"].shape == (24, 8, 3, 3)
    np.testing.assert_array_equal(timm["head.fc.weight"],
                                  tensors["head/kernel"].T)
    np.testing.assert_array_equal(
        timm["s2.b1.se.fc1.weight"][:, :, 0, 0],
        tensors["stage2/block1/se/squeeze/kernel"][0, 0].T)
  with np.load(tmp_path / "keras.npz") as keras:
    np.testing.assert_array_equal(keras["_stem_bn/gamma:0"],
                                  tensors["stem/bn/gamma"])
