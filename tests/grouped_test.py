"""Grouped convolutions against one ordinary convolution per group.

The reference splits the channels, convolves each group by itself and puts the
results together: TensorFlow differentiates that on every CPU. The same program
runs in a process without oneDNN, where TensorFlow's own gradients fail.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hub_export.regnet import grouped

# (batch, height, width, group width, groups, stride): sides odd and even, in
# all four combinations; one group; a side as small as the kernel and smaller.
CASES = [
    (2, 8, 10, 4, 3, 1), (2, 7, 9, 4, 3, 1), (3, 8, 10, 4, 3, 2),
    (2, 7, 9, 4, 3, 2), (1, 8, 7, 8, 2, 2), (1, 7, 8, 8, 2, 2),
    (2, 5, 6, 6, 1, 2), (1, 3, 4, 2, 5, 2), (4, 1, 2, 3, 2, 2),
    (2, 1, 1, 3, 2, 1),
]


def _arrays(case):
  batch, height, width, group_width, groups, stride = case
  random = np.random.default_rng(sum(case))
  channels = group_width * groups
  out = (batch, -(-height // stride), -(-width // stride), channels)
  return [tf.constant(random.normal(size=size), tf.float32) for size in (
      (batch, height, width, channels), (3, 3, group_width, channels), out)]


def _by_groups(images, kernel, stride, padding):
  groups = images.shape[-1] // kernel.shape[2]
  if padding == "SYMMETRIC":  # A kernel on its own takes this everywhere.
    padding = [[0, 0], [1, 1], [1, 1], [0, 0]]
  return tf.concat([
      tf.nn.conv2d(x, w, stride, padding) for x, w in zip(
          tf.split(images, groups, -1), tf.split(kernel, groups, -1))], -1)


def _gradients(conv, images, kernel, upstream, stride, padding):
  """Returns output and gradients, traced with unknown sizes as exports are."""

  @tf.function(input_signature=[
      tf.TensorSpec([None, None, None, images.shape[-1]]),
      tf.TensorSpec(kernel.shape),
      tf.TensorSpec([None, None, None, kernel.shape[-1]])])
  def run(x, w, dy):
    with tf.GradientTape() as tape:
      tape.watch([x, w])
      y = conv(x, w, stride, padding)
    return y, *tape.gradient(y, [x, w], dy)

  return run(images, kernel, upstream)


@pytest.mark.parametrize("conv", [grouped.conv2d, grouped.conv2d_portable])
@pytest.mark.parametrize("padding", ["SAME", "SYMMETRIC"])
@pytest.mark.parametrize("case", CASES)
def test_equals_one_convolution_per_group(conv, case, padding):
  images, kernel, upstream = _arrays(case)
  expected = _gradients(_by_groups, images, kernel, upstream, case[-1], padding)
  actual = _gradients(conv, images, kernel, upstream, case[-1], padding)
  for got, wanted in zip(actual, expected, strict=True):
    assert got.shape == wanted.shape
    # Sums of some hundred products of unit size, in another order.
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_both_forms_without_onednn():
  """The portable gradients hold there; the fast ones are refused there.

  If the second part fails, TensorFlow has learned to differentiate grouped
  convolutions on every CPU, and the portable form is needed no more.
  """
  root = pathlib.Path(__file__).absolute().parents[1]
  result = subprocess.run(
      [sys.executable, "-m", "tests.grouped_test"], text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
      env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": str(root)})
  assert result.returncode == 0, result.stderr[-2000:]
  assert result.stdout.split() == ["portable", "right", "native", "refused"]


def _main():
  for case in CASES:
    for padding in ("SAME", "SYMMETRIC"):
      test_equals_one_convolution_per_group(
          grouped.conv2d_portable, case, padding)
  print("portable right")
  try:
    _gradients(grouped.conv2d, *_arrays(CASES[0]), 1, "SAME")
  except tf.errors.InvalidArgumentError as e:
    assert "grouped" in str(e).lower(), e
    print("native refused")


if __name__ == "__main__":
  _main()
