"""Damaged, foreign and hostile checkpoints: one error each, that names them.

The files are small but real: tf_keras' own RegNet and the stand-in for the
regnety project's network, with 8, 16, 24 and 32 channels, saved by tf_keras.
"""

import os
import pathlib
import random
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import tf_keras
from tf_keras.src.applications import regnet

from hub_export import errors
from hub_export.regnet import checkpoints
from hub_export.regnet import variants
from hub_export.regnet import wishes
from hub_export.regnet.checkpoints import torch_names
from tests import regnety_standin

# Stages of one block each, 8, 16, 24 and 32 channels wide.
TINY = variants.Variant("tiny", depth=4, w_0=8, w_a=8.0, w_m=1.3, group_width=8)
STAGES = ((1, 1, 1, 1), (8, 16, 24, 32))
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"

CONV = "tiny_Stage_1_YBlock_0_conv_3x3"
NORM = "tiny_Stage_1_YBlock_0_conv_3x3_bn"


@pytest.fixture(name="keras_model", scope="module")
def _keras_model():
  tf_keras.utils.set_random_seed(0)
  return regnet.RegNet(*STAGES, 8, "Y", 32, model_name="tiny", weights=None,
                       input_shape=(32, 32, 3), classes=5)


@pytest.fixture(name="keras_file", scope="module")
def _keras_file(keras_model, tmp_path_factory):
  path = tmp_path_factory.mktemp("keras") / "tiny.h5"
  keras_model.save_weights(path)
  return path


@pytest.fixture(name="tf_model", scope="module")
def _tf_model():
  tf_keras.utils.set_random_seed(1)
  regnety_standin.MODELS["tiny"] = (*STAGES, 8)
  try:
    return regnety_standin.build("tiny")
  finally:
    del regnety_standin.MODELS["tiny"]


@pytest.fixture(name="tf_prefix", scope="module")
def _tf_prefix(tf_model, tmp_path_factory):
  prefix = tmp_path_factory.mktemp("tf") / "tiny_best"
  tf_model.save_weights(prefix)
  return prefix


@pytest.fixture(name="path")
def _path(keras_file, tmp_path):
  """A copy of the HDF5 file, to be spoilt."""
  return pathlib.Path(shutil.copy(keras_file, tmp_path / "copy.h5"))


@pytest.fixture(name="prefix")
def _prefix(tf_prefix, tmp_path):
  """A copy of the TensorFlow checkpoint, to be spoilt."""
  for suffix in (".index", ".data-00000-of-00001"):
    shutil.copy(f"{tf_prefix}{suffix}", tmp_path / f"copy{suffix}")
  return tmp_path / "copy"


def opened(path):
  return checkpoints.open(path, TINY)


def refusal(path, variant=TINY):
  """Returns the message with which a checkpoint is refused."""
  with pytest.raises(errors.CheckpointError) as e:
    checkpoints.open(path, variant)
  return str(e.value)


def replace(f, layer, leaf, values, **kwargs):
  """Puts other values into a layer's dataset."""
  del f[layer][layer][leaf]
  return f[layer][layer].create_dataset(leaf, data=values, **kwargs)


def set_names(f, layer, names):
  f[layer].attrs["weight_names"] = np.array(names, "S")


def rewritten(tf_prefix, target, change):
  """Writes a TensorFlow checkpoint anew with other keys or values."""
  reader = tf.train.load_checkpoint(str(tf_prefix))
  tensors = {key.removesuffix(VALUE): reader.get_tensor(key)
             for key in reader.get_variable_to_shape_map()
             if key.startswith("layer")}
  tensors = change(tensors)
  keys = [key + VALUE for key in tensors] + ["_CHECKPOINTABLE_OBJECT_GRAPH"]
  tf.raw_ops.SaveV2(
      prefix=str(target), tensor_names=keys, shape_and_slices=[""] * len(keys),
      tensors=[tf.constant(t) for t in tensors.values()] + [tf.constant(b"")])
  tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(target)],
                                destination_prefix=f"{target}_merged")
  return target.with_name(f"{target.name}_merged")


def test_every_format_can_be_asked_for():
  assert set(checkpoints.READERS) == set(wishes.FORMATS)


def test_a_near_miss_is_told_without_a_variant(path, monkeypatch):
  """One tensor too many: what is wrong is that, not all of the network."""
  monkeypatch.setattr(variants, "VARIANTS", (*variants.VARIANTS, TINY))
  _add_strays(path, 1)
  with pytest.raises(errors.CheckpointError) as e:
    checkpoints.open(path)
  assert "unexpected: stray/gamma" in str(e.value) and "tiny" in str(e.value)
  assert "missing" not in str(e.value)


def _add_strays(path, count):
  """Adds a layer of so many tensors that no network has."""
  names = ["stray/gamma:0", *(f"stray/gamma_{i}:0" for i in range(1, count))]
  with h5py.File(path, "r+") as f:
    f.attrs["layer_names"] = [*f.attrs["layer_names"], "stray"]
    f.create_group("stray").attrs["weight_names"] = names
    for name in names:
      f["stray"].create_dataset(name, data=np.zeros(2, "f"))


def test_another_network_is_no_near_miss(path):
  with pytest.raises(errors.CheckpointError, match="no RegNetX or RegNetY"):
    checkpoints.open(path)


def test_too_many_misses_are_another_network(path, monkeypatch):
  """All tensors of a variant are there, and half as many that are not its."""
  monkeypatch.setattr(variants, "VARIANTS", (*variants.VARIANTS, TINY))
  _add_strays(path, len(checkpoints.open(path).layout.tensors) // 2)
  with pytest.raises(errors.CheckpointError, match="no RegNetX or RegNetY"):
    checkpoints.open(path)


def test_never_whole_in_memory(tmp_path):
  """Of 13 MB, the largest tensor has 1.5 MB, read, turned and converted."""
  arch, = variants.architectures(variants.by_name("200mf"), "torch")
  random_ = np.random.default_rng(0)
  stored = {}
  for name, shape in variants.tensor_shapes(arch, 1000).items():
    values = random_.uniform(0.5, 1, shape).astype("f")
    if len(shape) == 4:
      values = np.ascontiguousarray(values.transpose(3, 2, 0, 1))
    stored[torch_names.spelling("timm", name)] = (
        np.ascontiguousarray(values.T) if len(shape) == 2 else values)
  path = tmp_path / "weights"
  safetensors.numpy.save_file(stored, path)
  del stored
  tracemalloc.start()
  try:
    opened_ = checkpoints.open(path, variants.by_name("200mf"))
    assert sum(t.size for t in opened_.tensors.values()) == 3183844
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert path.stat().st_size > 12.7e6
  assert peak < 7e6


class TestSound:

  def test_keras_tensors_come_out_as_keras_has_them(self, keras_model, path):
    checkpoint = opened(path)
    for name, layer, place in (
        ("stem/conv", "tiny_stem_conv", 0),
        ("stage2/block1/b/conv", CONV, 0),
        ("stage2/block1/b/bn/gamma", NORM, 0),
        ("stage2/block1/b/bn/beta", NORM, 1),
        ("stage2/block1/b/bn/moving_mean", NORM, 2),
        ("stage2/block1/b/bn/moving_variance", NORM, 3),
        ("stage4/block1/se/excite/bias",
         "tiny_Stage_3_YBlock_0_squeeze_and_excite_excite", 1)):
      np.testing.assert_array_equal(
          checkpoint.tensors[name],
          keras_model.get_layer(layer).get_weights()[place])
    assert checkpoint.num_classes == 5
    assert checkpoint.layout.files == (path,)

  def test_forms_of_a_tensorflow_path(self, prefix):
    data = prefix.with_name("copy.data-00000-of-00001")
    index = prefix.with_name("copy.index")
    digests = {opened(p).digests["sha256"]
               for p in (prefix, index, data, prefix.parent)}
    assert len(digests) == 1
    assert opened(prefix).layout.files == (index, data)

  def test_odd_names_of_files(self, prefix):
    target = prefix.parent / "odd" / "a.b *best?.index.h5"
    target.parent.mkdir()
    for suffix in (".index", ".data-00000-of-00001"):
      shutil.copy(f"{prefix}{suffix}", f"{target}{suffix}")
    checkpoint = opened(target)
    assert checkpoint.digests["sha256"] == opened(prefix).digests["sha256"]
    assert len(checkpoint.layout.files) == 2

  @pytest.mark.parametrize("name", ["a[best]", "b\\c"])
  def test_names_that_tensorflow_cannot_open(self, prefix, name):
    for suffix in (".index", ".data-00000-of-00001"):
      shutil.copy(f"{prefix}{suffix}", prefix.with_name(f"{name}{suffix}"))
    assert "Rename or copy it" in refusal(prefix.with_name(name))

  @pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
  def test_other_floats_become_float32(self, path, dtype):
    with h5py.File(path, "r+") as f:
      replace(f, CONV, "kernel:0", f[CONV][CONV]["kernel:0"][()].astype(dtype))
    tensor = opened(path).tensors["stage2/block1/b/conv"]
    assert tensor.dtype == np.float32 and tensor.dtype.isnative
    assert np.std(tensor) > 0

  def test_head_is_found_whatever_its_number(self, path):
    with h5py.File(path, "r+") as f:
      names = [n for n in f.attrs["layer_names"]]
      head = next(n for n in names if n.endswith("head_dense"))
      f.move(head, "2head_dense")
      f["2head_dense"].move(head, "2head_dense")
      set_names(f, "2head_dense", ["2head_dense/kernel:0",
                                   "2head_dense/bias:0"])
      f.attrs["layer_names"] = np.array(
          ["2head_dense" if n == head else n for n in names], "S")
    assert opened(path).num_classes == 5

  def test_attributes_in_chunks(self, path):
    """HDF5 holds 64 KB in an attribute; Keras splits what is longer."""
    whole = opened(path).digests["sha256"]
    with h5py.File(path, "r+") as f:
      names = f.attrs["layer_names"]
      del f.attrs["layer_names"]
      f.attrs["layer_names0"] = names[:20]
      f.attrs["layer_names1"] = names[20:]
      weights = f[NORM].attrs["weight_names"]
      del f[NORM].attrs["weight_names"]
      f[NORM].attrs["weight_names0"] = weights[:3]
      f[NORM].attrs["weight_names1"] = weights[3:]
    assert opened(path).digests["sha256"] == whole

  def test_lost_chunk_is_noticed(self, path):
    with h5py.File(path, "r+") as f:
      names = f.attrs["layer_names"]
      del f.attrs["layer_names"]
      f.attrs["layer_names0"] = names[:-1]
      f.attrs["layer_names2"] = names[-1:]
    # The last layer is the head; without it the features still fit.
    assert opened(path).num_classes == 0

  def test_numbering_shifted_by_a_first_layer_with_variables(
      self, tf_prefix, tmp_path):
    def shift(tensors):
      shifted = {"layer_with_weights-0/unrelated/mean": np.zeros(3, "f4")}
      for key, tensor in tensors.items():
        number, rest = key.removeprefix("layer_with_weights-").split("/", 1)
        shifted[f"layer_with_weights-{int(number) + 1}/{rest}"] = tensor
      return shifted

    def shift_alone(tensors):
      return dict(list(shift(tensors).items())[1:])

    plain = opened(tf_prefix).digests["sha256"]
    moved = rewritten(tf_prefix, tmp_path / "moved", shift_alone)
    assert opened(moved).digests["sha256"] == plain
    # Foreign variables of that first layer are not passed over in silence.
    with_more = rewritten(tf_prefix, tmp_path / "more", shift)
    message = refusal(with_more)
    assert "unexpected: layer_with_weights-0/unrelated/mean" in message
    assert "missing" not in message


class TestStrict:

  def test_all_problems_in_one_error(self, path):
    gone = "tiny_Stage_0_YBlock_0_conv_1x1_1"
    short = "tiny_Stage_3_YBlock_0_skip_1x1"
    whole = "tiny_Stage_2_YBlock_0_conv_1x1_2"
    with h5py.File(path, "r+") as f:
      set_names(f, gone, [])
      f.create_group("stranger")["kernel:0"] = np.zeros((1, 1, 2, 2))
      set_names(f, "stranger", ["kernel:0"])
      # A second model's stem would be taken for the stem as well.
      other = f.create_group("other_stem_conv")
      other["kernel:0"] = np.zeros((3, 3, 3, 32), "f4")
      set_names(f, "other_stem_conv", ["kernel:0"])
      f.attrs["layer_names"] = [
          *f.attrs["layer_names"], "stranger", "other_stem_conv"]
      replace(f, short, "kernel:0", np.zeros((1, 1, 24, 31), "f4"))
      replace(f, whole, "kernel:0", np.ones((1, 1, 24, 24), "i4"))
      f[CONV][CONV]["kernel:0"][0, 1, 2, 3] = np.nan
      f[NORM][NORM]["gamma:0"][:2] = [np.inf, -np.inf]
      f[NORM][NORM]["moving_variance:0"][4] = -0.5
    message = refusal(path)
    for expected in (
        "missing: *_Stage_0_YBlock_0_conv_1x1_1/kernel:0",
        "unexpected: stranger/kernel:0",
        "a second time: other_stem_conv/kernel:0 (as tiny_stem_conv/kernel:0)",
        f"misshapen: {short}/kernel:0 is [1, 1, 24, 31], "
        "expected [1, 1, 24, 32]",
        f"of type int32: {whole}/kernel:0, expected a float",
        f"{CONV}/kernel:0: 1 of 1152 values not finite",
        f"{NORM}/gamma:0: 2 of 16 values not finite",
        f"{NORM}/moving_variance:0: a variance of -0.5"):
      assert expected in message
    # Nothing but what was spoilt.
    assert len(message.splitlines()) == 2 + 8

  def test_all_problems_in_one_error_of_tensorflow(self, tf_prefix, tmp_path):
    def spoil(tensors):
      del tensors["layer_with_weights-1/stage/0/conv1x1_1/kernel"]
      tensors["layer_with_weights-2/stage/1/conv1x1_1/kernel"] = np.zeros(
          (1, 1, 16, 16), "f4")
      tensors["layer_with_weights-3/stage/0/se/squeeze_conv/bias"] = np.zeros(
          (7,), "f4")
      tensors["layer_with_weights-4/stage/0/bn3x3/beta"] = np.zeros(32, "i4")
      tensors["layer_with_weights-0/bn/moving_variance"][3] = -2
      tensors["layer_with_weights-5/fc/bias"][9] = np.nan
      return tensors

    message = refusal(rewritten(tf_prefix, tmp_path / "spoilt", spoil))
    for expected in (
        "missing: layer_with_weights-1/stage/0/conv1x1_1/kernel",
        "unexpected: layer_with_weights-2/stage/1/conv1x1_1/kernel",
        "misshapen: layer_with_weights-3/stage/0/se/squeeze_conv/bias is [7], "
        "expected [6]",
        "of type int32: layer_with_weights-4/stage/0/bn3x3/beta",
        "layer_with_weights-0/bn/moving_variance: a variance of -2",
        "layer_with_weights-5/fc/bias: 1 of 1000 values not finite"):
      assert expected in message
    assert len(message.splitlines()) == 2 + 6

  @pytest.mark.parametrize("value", [1e300, -1e39, 3.5e38])
  def test_what_float32_cannot_hold(self, path, value):
    with h5py.File(path, "r+") as f:
      values = f[CONV][CONV]["kernel:0"][()].astype("f8")
      values[0, 0, 0, 0] = value
      replace(f, CONV, "kernel:0", values)
    assert f"{CONV}/kernel:0: 1 of 1152 values not finite" in refusal(path)

  def test_variance_of_zero_is_none_of_our_business(self, path):
    with h5py.File(path, "r+") as f:
      f[NORM][NORM]["moving_variance:0"][4] = 0
    assert opened(path).tensors["stage2/block1/b/bn/moving_variance"][4] == 0

  def test_a_dense_layer_too_many(self, path):
    with h5py.File(path, "r+") as f:
      f.create_group("predictions")["kernel:0"] = np.zeros((32, 5), "f4")
      set_names(f, "predictions", ["kernel:0"])
      f.attrs["layer_names"] = [*f.attrs["layer_names"], "predictions"]
    assert "a second time: predictions/kernel:0" in refusal(path)

  def test_tensorflow_checkpoint_without_head(self, tf_prefix, tmp_path):
    headless = rewritten(
        tf_prefix, tmp_path / "headless",
        lambda tensors: {k: t for k, t in tensors.items() if "/fc/" not in k})
    assert "missing: layer_with_weights-5/fc/kernel" in refusal(headless)

  def test_wrong_variant_is_named(self, tmp_path):
    path = tmp_path / "weights.h5"
    tf_keras.applications.RegNetY002(weights=None).save_weights(path)
    message = refusal(path, variants.by_name("600mf"))
    assert "is a regnety_200mf by its tensors" in message
    assert "expected a regnety_600mf" in message
    assert "--variant=regnety_200mf" in message
    assert len(message.splitlines()) == 1

  def test_regnetx_is_refused(self, tmp_path):
    model = regnet.RegNet(*STAGES, 8, "X", 32, model_name="tiny", weights=None,
                          input_shape=(32, 32, 3), classes=5)
    model.save_weights(tmp_path / "x.h5")
    message = refusal(tmp_path / "x.h5")
    assert ("missing: *_Stage_0_XBlock_0_squeeze_and_excite_squeeze/kernel:0"
            in message)


class TestDamaged:

  def test_truncated_hdf5(self, keras_file, tmp_path):
    content = keras_file.read_bytes()
    path = tmp_path / "short.h5"
    # The header, then spread over the file, then all but the last bytes.
    lengths = [0, 1, 7, 8, 9, 50, 96, 100, 511, 512, 1000, 2048, 4096]
    lengths += range(5000, len(content), len(content) // 40)
    lengths += [len(content) - n for n in (1000, 100, 8, 1)]
    for length in lengths:
      path.write_bytes(content[:length])
      assert str(path) in refusal(path)

  def test_truncated_index(self, prefix):
    index = prefix.with_name("copy.index")
    content = index.read_bytes()
    for length in [0, 1, 48, *range(100, len(content), len(content) // 20),
                   len(content) - 1]:
      index.write_bytes(content[:length])
      assert str(prefix) in refusal(prefix)

  def test_truncated_data(self, prefix):
    data = prefix.with_name("copy.data-00000-of-00001")
    content = data.read_bytes()
    # Last in the file is TensorFlow's record of the objects, some 18 KB that
    # are not needed.
    weights = len(content) - 20_000
    for length in [0, 1, *range(100, weights, weights // 20)]:
      data.write_bytes(content[:length])
      message = refusal(prefix)
      assert "cannot be read as a TensorFlow checkpoint" in message
      assert "copy.data-00000-of-00001" in message

  @pytest.mark.parametrize("suffix", ["", ".index"])
  def test_missing_data(self, prefix, suffix):
    prefix.with_name("copy.data-00000-of-00001").unlink()
    message = refusal(pathlib.Path(f"{prefix}{suffix}"))
    assert "copy.data-00000-of-00001 side by side" in message

  def test_missing_index(self, prefix):
    prefix.with_name("copy.index").unlink()
    assert "is not there" in refusal(prefix)
    data = prefix.with_name("copy.data-00000-of-00001")
    assert ".index file" in refusal(data)

  def test_data_of_another_epoch(self, prefix, tf_prefix, tmp_path):
    def later(tensors):
      return {key: tensor * 1.01 for key, tensor in tensors.items()}

    rewritten(tf_prefix, tmp_path / "one", lambda tensors: tensors)
    rewritten(tf_prefix, tmp_path / "two", later)
    shutil.copy(tmp_path / "two_merged.data-00000-of-00001",
                tmp_path / "one_merged.data-00000-of-00001")
    assert "cannot be read" in refusal(tmp_path / "one_merged")
    assert opened(prefix).num_classes == 1000

  def test_bits_flipped_in_hdf5(self, keras_file, tmp_path):
    """Weights have no checksum, so that a flip there may pass; nothing else."""
    content = keras_file.read_bytes()
    chance = random.Random(5)
    shapes = {n: t.shape for n, t in opened(keras_file).tensors.items()}
    path = tmp_path / "flipped.h5"
    refused = 0
    for number in range(150):
      spoilt = bytearray(content)
      # Half of them where the structure begins.
      end = len(content) if number % 2 else 20000
      spoilt[chance.randrange(end)] ^= 1 << chance.randrange(8)
      path.write_bytes(spoilt)
      try:
        checkpoint = opened(path)
      except errors.CheckpointError:
        refused += 1
      else:
        tensors = checkpoint.tensors
        found = {n: t.shape for n, t in tensors.items()}
        # A damaged name of the head or its layer may make it a headless file.
        assert found.items() <= shapes.items()
        assert len(shapes) - len(found) in (0, 2)
        assert all(np.isfinite(t).all() for t in tensors.values())
    assert refused > 10

  def test_bits_flipped_in_tensorflow_checkpoint(self, prefix):
    expected = opened(prefix).digests["sha256"]
    chance = random.Random(6)
    refused = 0
    for number in range(60):
      file = prefix.with_name(
          "copy.index" if number % 2 else "copy.data-00000-of-00001")
      content = file.read_bytes()
      spoilt = bytearray(content)
      spoilt[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
      file.write_bytes(spoilt)
      try:
        # Both files have checksums: what passes is as it was.
        assert opened(prefix).digests["sha256"] == expected
      except errors.CheckpointError:
        refused += 1
      file.write_bytes(content)
    assert refused > 40


class TestForeign:

  @pytest.mark.parametrize("content", [
      b"", b"H", b"not a checkpoint\n", b"PK\x03\x04" + bytes(100),
      b"\x80\x02}q\x00.", bytes(1000)])
  @pytest.mark.parametrize("name", ["weights.h5", "weights", ".h5"])
  def test_other_files(self, tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path)
    assert str(path) in message and "no format that is read here" in message

  @pytest.mark.parametrize("content", [b"", b"text\n", bytes(1000)])
  @pytest.mark.parametrize("name", ["weights.index", ".index"])
  def test_other_files_called_index(self, tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    assert str(tmp_path) in refusal(path)
    assert str(tmp_path) in refusal(tmp_path)

  def test_nothing_there(self, tmp_path):
    message = refusal(tmp_path / "weights.h5")
    assert "weights.h5 is not there" in message
    assert "Check the spelling" in message

  def test_empty_directory(self, tmp_path):
    assert str(tmp_path) in refusal(tmp_path)

  def test_directory_with_two_checkpoints(self, prefix, tf_prefix):
    for suffix in (".index", ".data-00000-of-00001"):
      shutil.copy(f"{tf_prefix}{suffix}", prefix.parent / f"second{suffix}")
    message = refusal(prefix.parent)
    assert "copy" in message and "second" in message
    assert opened(prefix.parent / "second").num_classes == 1000

  def test_name_based_checkpoint_of_tensorflow_1(self, tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      tf.compat.v1.get_variable("conv1/weights", [3, 3, 3, 32])
      session.run(tf.compat.v1.global_variables_initializer())
      tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"),
                                      write_meta_graph=False)
    message = refusal(tmp_path / "model.ckpt")
    assert "name-based" in message and "object-based" in message

  def test_object_based_checkpoint_of_something_else(self, tmp_path):
    model = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(2,))])
    model.save_weights(tmp_path / "other")
    message = refusal(tmp_path / "other")
    assert "missing: layer_with_weights-0/conv3x3/kernel" in message

  def test_hdf5_of_something_else(self, tmp_path):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as f:
      f["x"] = np.zeros(3)
    assert "no attribute layer_names" in refusal(path)

  def test_hdf5_that_announces_nothing(self, tmp_path):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as f:
      f.attrs["layer_names"] = np.array([], "S")
    assert "missing: *_stem_conv/kernel:0" in refusal(path)


class TestHostile:

  def link(self, path, link):
    with h5py.File(path, "r+") as f:
      del f[CONV][CONV]["kernel:0"]
      f[CONV][CONV]["kernel:0"] = link

  def test_external_link(self, path, keras_file):
    self.link(path, h5py.ExternalLink(
        str(keras_file), f"/{CONV}/{CONV}/kernel:0"))
    assert f"{CONV}/kernel:0 is a link" in refusal(path)

  def test_soft_link(self, path):
    with h5py.File(path, "r+") as f:
      f["elsewhere"] = f[CONV][CONV]["kernel:0"]
    self.link(path, h5py.SoftLink("/elsewhere"))
    assert f"{CONV}/kernel:0 is a link" in refusal(path)

  @pytest.mark.parametrize("name", ["model_weights", CONV])
  def test_external_link_higher_up(self, path, keras_file, tmp_path, name):
    if name == "model_weights":
      path = tmp_path / "links.h5"
    with h5py.File(path, "a") as f:
      if name == CONV:
        del f[CONV]
      f[name] = h5py.ExternalLink(
          str(keras_file), "/" if name == "model_weights" else f"/{CONV}")
    assert f"{name} is a link" in refusal(path)

  def test_soft_link_in_a_circle(self, path):
    with h5py.File(path, "r+") as f:
      del f[CONV]
      f[CONV] = h5py.SoftLink(f"/{CONV}")
    assert f"{CONV} is a link" in refusal(path)

  def test_virtual_dataset(self, path, keras_file):
    virtual = h5py.VirtualLayout((3, 3, 8, 16), "f4")
    virtual[:] = h5py.VirtualSource(
        str(keras_file), f"{CONV}/{CONV}/kernel:0", (3, 3, 8, 16))
    with h5py.File(path, "r+") as f:
      del f[CONV][CONV]["kernel:0"]
      f[CONV][CONV].create_virtual_dataset("kernel:0", virtual)
    assert "does not hold its own values" in refusal(path)

  def test_values_in_another_file(self, path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(4 * 1152))
    with h5py.File(path, "r+") as f:
      del f[CONV][CONV]["kernel:0"]
      f[CONV][CONV].create_dataset(
          "kernel:0", (3, 3, 8, 16), "f4", external=[(str(secret), 0, 4608)])
    assert "does not hold its own values" in refusal(path)

  @pytest.mark.parametrize("layer,shape", [
      (CONV, (3, 3, 2 ** 20, 2 ** 20)), (CONV, (2 ** 40,)),
      (NORM, (2 ** 30,))])
  def test_absurd_shape_is_not_read(self, path, layer, shape):
    """Such a dataset takes no room in the file, but terabytes of memory."""
    leaf = "kernel:0" if layer == CONV else "gamma:0"
    with h5py.File(path, "r+") as f:
      del f[layer][layer][leaf]
      f[layer][layer].create_dataset(leaf, shape, "f4", chunks=True)
    tracemalloc.start()
    try:
      message = refusal(path)
      _, peak = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
    assert f"misshapen: {layer}/{leaf} is {list(shape)}" in message
    assert peak < 10 * 2 ** 20

  def test_absurd_number_of_classes(self, path):
    with h5py.File(path, "r+") as f:
      head = next(n for n in f.attrs["layer_names"]
                  if n.endswith("head_dense"))
      for leaf, shape in (("kernel:0", (32, 2 ** 40)), ("bias:0", (2 ** 40,))):
        del f[head][head][leaf]
        f[head][head].create_dataset(leaf, shape, "f4", chunks=True)
    assert str(2 ** 40) in refusal(path)

  def test_dataset_without_values(self, path):
    with h5py.File(path, "r+") as f:
      replace(f, CONV, "kernel:0", h5py.Empty("f4"))
    assert f"{CONV}" in refusal(path)

  def test_group_for_a_dataset_and_dataset_for_a_group(self, path, tmp_path):
    other = pathlib.Path(shutil.copy(path, tmp_path / "other.h5"))
    with h5py.File(path, "r+") as f:
      del f[CONV][CONV]["kernel:0"]
      f[CONV][CONV].create_group("kernel:0")
    assert CONV in refusal(path)
    with h5py.File(other, "r+") as f:
      names = f[CONV].attrs["weight_names"]
      del f[CONV]
      f[CONV] = np.zeros(3)
      f[CONV].attrs["weight_names"] = names
    assert CONV in refusal(other)

  @pytest.mark.parametrize("names", [
      "text", 7, h5py.Empty("S1"), np.array([b"\xff\xfe"]),
      np.array(["/"], "S"), np.array([""], "S"), np.array(["../.."], "S"),
      np.zeros((2, 2))])
  @pytest.mark.parametrize("attribute", ["layer_names", "weight_names"])
  def test_attributes_of_other_kinds(self, path, attribute, names):
    with h5py.File(path, "r+") as f:
      place = f if attribute == "layer_names" else f[CONV]
      place.attrs[attribute] = names
    assert str(path) in refusal(path)

  def test_same_dataset_under_two_names(self, path):
    """A name that is listed twice is a mistake, not a choice."""
    with h5py.File(path, "r+") as f:
      set_names(f, CONV, [f"{CONV}/kernel:0"] * 2)
    assert f"{CONV}/kernel:0 is listed twice" in refusal(path)

  def test_numbers_beyond_all_bounds(self, path):
    name = f"tiny_Stage_{'9' * 5000}_YBlock_0_conv_3x3"
    with h5py.File(path, "r+") as f:
      f.create_group(name)["kernel:0"] = np.zeros((3, 3, 8, 16), "f4")
      set_names(f, name, ["kernel:0"])
      names = [n for n in f.attrs["layer_names"]]
      f.attrs["layer_names"] = [*names, name]
    assert "unexpected: tiny_Stage_999" in refusal(path)
