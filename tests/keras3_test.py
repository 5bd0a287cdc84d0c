"""Files of .keras and .weights.h5 against the models that they were saved from.

What a tensor should be is looked up in the model by the layer's name, which the
files mostly do not have.
"""

import functools
import io
import json
import pathlib
import shutil
import struct
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras.src.applications import regnet

from hub_export import errors
from hub_export.regnet import network
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import keras3
from tests import random_networks

TOLERANCE = 1e-4  # See keras_parity_test.
BUILDERS = {"regnety_200mf": tf_keras.applications.RegNetY002,
            "regnetx_200mf": tf_keras.applications.RegNetX002}
DEPTHS = (1, 1, 4, 7)   # Of both.
SIZE_PX = 64
CONVS = {"a": "conv_1x1_1", "b": "conv_3x3", "c": "conv_1x1_2"}
NORM = ("gamma", "beta", "moving_mean", "moving_variance")


@functools.cache
def model_of(name, include_top=True):
  """Returns a tf_keras model with random weights and statistics."""
  model = BUILDERS[name](weights=None, include_top=include_top,
                         input_shape=(SIZE_PX, SIZE_PX, 3), classes=7)
  if include_top:
    random_networks.randomise(
        model, random_networks.images(SIZE_PX, SIZE_PX, 1, 8) * 255, seed=2)
  else:
    model.set_weights(model_of(name).get_weights()[:-2])
  return model


def wanted(model):
  """Returns canonical name -> values, by the layers' names."""
  layers = {layer.name: layer for layer in model.layers}
  base = next(n for n in layers if n.endswith("_stem_conv"))
  base = base.removesuffix("_stem_conv")
  letter = "X" if f"{base}_Stage_0_XBlock_0_conv_3x3" in layers else "Y"
  tensors = {}

  def add(prefix, conv, norm):
    tensors[f"{prefix}/conv"], = layers[conv].get_weights()
    for leaf, values in zip(NORM, layers[norm].get_weights(), strict=True):
      tensors[f"{prefix}/bn/{leaf}"] = values

  add("stem", f"{base}_stem_conv", f"{base}_stem_bn")
  for s, depth in enumerate(DEPTHS):
    for b in range(depth):
      layer, block = f"{base}_Stage_{s}_{letter}Block_{b}", (
          f"stage{s + 1}/block{b + 1}")
      for part, conv in CONVS.items():
        add(f"{block}/{part}", f"{layer}_{conv}", f"{layer}_{conv}_bn")
      if b == 0:
        add(f"{block}/shortcut", f"{layer}_skip_1x1", f"{layer}_skip_bn")
      if letter == "Y":
        for part in ("squeeze", "excite"):
          weights = layers[f"{layer}_squeeze_and_excite_{part}"].get_weights()
          for leaf, values in zip(("kernel", "bias"), weights, strict=True):
            tensors[f"{block}/se/{part}/{leaf}"] = values
  if "dense" in type(model.layers[-1]).__name__.lower():
    tensors["head/kernel"], tensors["head/bias"] = (
        model.layers[-1].get_weights())
  return tensors


def assert_read(path, expected):
  """Asserts that a file has these tensors and nothing else; returns them."""
  assert keras3.recognises(path)
  found = keras3.read(path)
  assert (found.unexpected, found.duplicates) == ((), ())
  assert set(found.tensors) == set(expected)
  for name, values in expected.items():
    assert found.tensors[name].shape == values.shape
    np.testing.assert_array_equal(found.tensors[name].read(), values, name)
  return found


def rebuilt(model, shortcut_first=False):
  """Returns the same model with the same weights made of Keras 3's layers.

  Args:
    model: Of tf_keras.
    shortcut_first: Whether the two sides of an addition are exchanged, which
      exchanges layers in the model's order.
  """
  outputs, made = {}, []
  for layer in model.layers:
    config = layer.get_config()
    name = layer.name
    node = layer.inbound_nodes[0]
    inputs = [outputs[id(x)] for x in tf.nest.flatten(node.keras_inputs)]
    if isinstance(layer, tf_keras.layers.InputLayer):
      result = keras.Input(layer.input_shape[0][1:])
    elif name.startswith("tf.__operators__.add"):
      result = keras.ops.add(*inputs[::-1 if shortcut_first else 1])
    elif name.startswith("tf.math.multiply"):
      result = keras.ops.multiply(*inputs)
    else:
      kept = ("name", "filters", "kernel_size", "strides", "padding", "groups",
              "use_bias", "epsilon", "scale", "units", "keepdims")
      arguments = {key: config[key] for key in kept if key in config}
      if config.get("activation") in ("relu", "sigmoid"):
        arguments["activation"] = config["activation"]
      new = getattr(keras.layers, type(layer).__name__)(**arguments)
      result = new(inputs[0])
      made.append((new, layer))
    outputs[id(layer.output)] = result
  new_model = keras.Model(outputs[id(model.input)], outputs[id(model.output)])
  for new, old in made:
    new.set_weights(old.get_weights())
  return new_model


class TestSavedByTfKeras:

  @pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
  @pytest.mark.parametrize("name", BUILDERS)
  def test_whole(self, name, suffix, tmp_path):
    model = model_of(name)
    save = model.save if suffix == ".keras" else model.save_weights
    save(tmp_path / f"m{suffix}")
    expected = wanted(model)
    found = assert_read(tmp_path / f"m{suffix}", expected)
    arch, = variants.architectures(variants.by_name(name), "keras")
    assert {n: t.shape for n, t in found.tensors.items()} == (
        variants.tensor_shapes(arch, 7))
    assert (found.source, found.format) == ("keras", "keras3")
    letter = "X" if "x" in name else "Y"
    assert found.spelling("stage2/block1/shortcut/bn/beta") == (
        f"*_Stage_1_{letter}Block_0_skip_bn/beta")

  @pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
  def test_without_top(self, suffix, tmp_path):
    model = model_of("regnetx_200mf", include_top=False)
    save = model.save if suffix == ".keras" else model.save_weights
    save(tmp_path / f"m{suffix}")
    found = assert_read(tmp_path / f"m{suffix}", wanted(model))
    assert found.may_lack_head and "head/kernel" not in found.tensors

  def test_inside_another_model_with_an_optimizer(self, tmp_path):
    """As Keras' guides fine-tune: the base is a layer of the new model."""
    base = model_of("regnetx_200mf", include_top=False)
    model = tf_keras.Sequential([
        base, tf_keras.layers.GlobalAveragePooling2D(),
        tf_keras.layers.Dense(3)])
    model.compile("adam", "mse", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    kernel, bias = model.layers[-1].get_weights()
    expected = wanted(base) | {"head/kernel": kernel, "head/bias": bias}
    model.save_weights(tmp_path / "m.weights.h5")
    model.save(tmp_path / "m.keras")
    assert_read(tmp_path / "m.weights.h5", expected)
    assert_read(tmp_path / "m.keras", expected)


class TestSavedByKeras3:

  @pytest.mark.parametrize("name, shortcut_first", [
      ("regnety_200mf", True), ("regnetx_200mf", False)])
  def test_rebuilt_model(self, name, shortcut_first, tmp_path):
    model = rebuilt(model_of(name), shortcut_first)
    names = [layer.name for layer in model.layers]
    skip, last = (next(i for i, n in enumerate(names) if n.endswith(part))
                  for part in ("_skip_1x1", "_conv_1x1_2"))
    assert (skip < last) == shortcut_first  # Order alone would be wrong then.
    expected = wanted(model_of(name))
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    assert_read(tmp_path / "m.keras", expected)
    assert_read(tmp_path / "m.weights.h5", expected)

  def test_names_come_from_the_configuration_as_well(self, tmp_path):
    """Early versions of Keras 3 wrote no names into the groups."""
    path = tmp_path / "m.keras"
    rebuilt(model_of("regnety_200mf"), shortcut_first=True).save(path)

    def change(f):
      for layer in f["layers"].values():
        layer["vars"].attrs.pop("name", None)

    rezipped(path, change)
    assert_read(path, wanted(model_of("regnety_200mf")))


@pytest.fixture(name="tensors", scope="module")
def _tensors(tmp_path_factory):
  path = tmp_path_factory.mktemp("logits") / "m.weights.h5"
  model_of("regnety_200mf").save_weights(path)
  return {n: t.read() for n, t in keras3.read(path).tensors.items()}


class TestLogits:
  """The order of a .weights.h5 of tf_keras, proven by what is computed."""

  def difference(self, tensors):
    arch, = variants.architectures(variants.by_name("regnety_200mf"), "keras")
    ours = network.Network(arch, tensors, (0.0,) * 3, (1.0,) * 3)
    images = random_networks.images(SIZE_PX, SIZE_PX, seed=3)
    logits = ours.logits(ours.features(tf.constant(images), False, 0.9)[0])
    expected = model_of("regnety_200mf")(images * 255, training=False)
    return random_networks.difference(logits, expected.numpy())

  def test_as_read(self, tensors):
    assert self.difference(tensors) < TOLERANCE

  def test_shortcut_for_first_convolution(self, tensors):
    """The two have the same shape, so that nothing else would notice."""
    swapped = dict(tensors)
    for leaf in ("conv", *(f"bn/{leaf}" for leaf in NORM)):
      a, shortcut = f"stage3/block1/a/{leaf}", f"stage3/block1/shortcut/{leaf}"
      swapped[a], swapped[shortcut] = tensors[shortcut], tensors[a]
    assert self.difference(swapped) > 100 * TOLERANCE


@pytest.fixture(name="tiny", scope="module")
def _tiny(tmp_path_factory):
  """A directory with a small model as m.keras and as m.weights.h5."""
  model = regnet.RegNet((1, 1, 2, 1), (8, 16, 24, 32), 8, "Y", 32,
                        model_name="tiny", weights=None, classes=5,
                        input_shape=(32, 32, 3))
  directory = tmp_path_factory.mktemp("tiny")
  model.save(directory / "m.keras")
  model.save_weights(directory / "m.weights.h5")
  return directory


@pytest.fixture(name="archive")
def _archive(tiny, tmp_path):
  return pathlib.Path(shutil.copy(tiny / "m.keras", tmp_path))


@pytest.fixture(name="weights")
def _weights(tiny, tmp_path):
  return pathlib.Path(shutil.copy(tiny / "m.weights.h5", tmp_path))


def rezipped(path, change=lambda f: None, compression=zipfile.ZIP_STORED,
             config=None):
  """Writes an archive anew, with other weights, packing or configuration."""
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  weights = io.BytesIO(members["model.weights.h5"])
  with h5py.File(weights, "r+") as f:
    change(f)
  members["model.weights.h5"] = weights.getvalue()
  if config is not None:
    members["config.json"] = config
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, content in members.items():
      archive.writestr(name, content)


def refusal(path):
  with pytest.raises(errors.CheckpointError) as e:
    keras3.read(path)
  return str(e.value)


class TestArchives:

  def test_packed_archive(self, archive):
    before = {n: t.read() for n, t in keras3.read(archive).tensors.items()}
    rezipped(archive, compression=zipfile.ZIP_DEFLATED)
    assert_read(archive, before)

  def test_bomb(self, archive):
    def change(f):
      f.create_dataset("zeros", data=np.zeros(30 << 20, np.uint8))
    rezipped(archive, change, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(archive) as z:
      assert z.getinfo("model.weights.h5").file_size > 30 << 20
    assert archive.stat().st_size < 1 << 20
    assert "which weights never do" in refusal(archive)

  def test_stated_size_over_the_limit(self, archive, monkeypatch):
    monkeypatch.setattr(keras3, "_MAX_WEIGHTS_BYTES", 1000)
    assert "at most 1000 are read" in refusal(archive)

  def test_large_configuration(self, archive):
    rezipped(archive, config=b" " * (33 << 20) + b"{}",
             compression=zipfile.ZIP_DEFLATED)
    assert "config.json has 34603010 bytes" in refusal(archive)

  @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
  def test_packing_without_a_limit(self, archive, method):
    """A few bytes of these become any number at once, whatever is stated."""
    rezipped(archive, compression=method)
    assert f"packed by method {method}" in refusal(archive)

  def test_configuration_larger_than_stated(self, archive):
    rezipped(archive, config=bytes(80 << 20),
             compression=zipfile.ZIP_DEFLATED)
    content = archive.read_bytes().replace(
        struct.pack("<L", 80 << 20), struct.pack("<L", 1000))
    archive.write_bytes(content)
    tracemalloc.start()
    assert "cannot be read as a .keras" in refusal(archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20

  def test_large_directory(self, archive):
    with zipfile.ZipFile(archive, "a") as z:
      for i in range(70):
        z.writestr(zipfile.ZipInfo(f"{i}" + "x" * 64_000), b"")
    assert keras3.recognises(archive)
    assert "directory has more than" in refusal(archive)

  @pytest.mark.parametrize("config", [
      b"[]", b"{", b"[" * 100_000, b"\xff\xfe\x00", b"1"])
  def test_configuration_is_no_object(self, archive, config):
    rezipped(archive, config=config)
    assert "cannot be read as a .keras" in refusal(archive)

  @pytest.mark.parametrize("config", [
      {}, {"config": 3}, {"config": {"layers": {"a": 1}}},
      {"config": {"layers": [None, 7, {"class_name": ["Conv2D"]},
                             {"class_name": "Conv2D", "config": []},
                             {"class_name": "Conv2D", "name": {}}]}}])
  def test_configuration_of_odd_types(self, archive, config):
    """The order of the layers is enough then."""
    before = keras3.read(archive).tensors
    rezipped(archive, config=json.dumps(config).encode())
    found = keras3.read(archive).tensors
    assert {n: t.name for n, t in found.items()} == (
        {n: t.name for n, t in before.items()})

  def test_flipped_bit(self, archive):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 4
    archive.write_bytes(content)
    assert "check sum of model.weights.h5 is wrong" in refusal(archive)

  def test_second_member_of_the_name(self, archive):
    with pytest.warns(UserWarning), zipfile.ZipFile(archive, "a") as z:
      z.writestr("model.weights.h5", b"")
    assert "2 members called model.weights.h5" in refusal(archive)

  def test_encrypted(self, archive):
    content = bytearray(archive.read_bytes())
    place = content.rindex(b"PK\x01\x02")  # The last entry of the directory.
    struct.pack_into("<H", content, place + 8, 1)
    archive.write_bytes(content)
    assert "'model.weights.h5' is encrypted" in refusal(archive)

  @pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
  def test_truncated(self, archive, part):
    content = archive.read_bytes()
    archive.write_bytes(content[:int(part * len(content))])
    assert keras3.recognises(archive)  # What broke off is told as such.
    assert "cannot be read as a .keras" in refusal(archive)


class TestWeightsFiles:

  def test_string_without_a_size(self, weights):
    """libhdf5 1.14 would look for the next string for ever."""
    with h5py.File(weights, "r+") as f:
      f["layers/conv2d/vars"].attrs["name"] = "stem"
    content = bytearray(weights.read_bytes())
    heap = content.rindex(b"GCOL")
    # One string, in 16 + 8 bytes after 16 of the heap's own; then free space.
    assert struct.unpack_from("<HHIQ", content, heap + 16)[0] == 1
    index, _, _, size = struct.unpack_from("<HHIQ", content, heap + 40)
    assert (index, size) == (0, 4096 - 40)
    struct.pack_into("<Q", content, heap + 48, 0)
    weights.write_bytes(content)
    assert f"the strings at byte {heap} are damaged" in refusal(weights)

  def test_missing_layer_of_the_order(self, weights):
    with h5py.File(weights, "r+") as f:
      del f["layers/conv2d_4"]
    assert "layers/conv2d_4 is missing" in refusal(weights)

  def test_another_network(self, weights):
    with h5py.File(weights, "r+") as f:
      f.move("layers/conv2d_1", "layers/x")
      f.move("layers/conv2d_2", "layers/conv2d_1")
      f.move("layers/x", "layers/conv2d_2")
    assert "convolution 2 of" in refusal(weights)

  def test_batch_norms_too_few(self, weights):
    with h5py.File(weights, "r+") as f:
      last = max((n for n in f["layers"] if n.startswith("batch_norm")),
                 key=lambda n: (len(n), n))
      del f["layers"][last]
    assert "convolutions without a bias, but" in refusal(weights)

  @pytest.mark.parametrize("link", [
      h5py.SoftLink("/layers/conv2d/vars/0"),
      h5py.ExternalLink("other.h5", "/secret")])
  def test_links(self, weights, link):
    with h5py.File(weights, "r+") as f:
      del f["layers/conv2d_2/vars/0"]
      f["layers/conv2d_2/vars/0"] = link
    assert "conv2d_2/vars/0 is a link" in refusal(weights)

  def test_external_storage(self, weights):
    secret = weights.with_name("secret")
    secret.write_bytes(bytes(32 * 4))
    with h5py.File(weights, "r+") as f:
      del f["layers/batch_normalization/vars/0"]
      f["layers/batch_normalization/vars"].create_dataset(
          "0", (32,), "f4", external=[("secret", 0, 128)])
    assert "does not hold its own values" in refusal(weights)

  def test_virtual_dataset(self, weights):
    with h5py.File(weights, "r+") as f:
      del f["layers/batch_normalization/vars/0"]
      virtual = h5py.VirtualLayout((32,), "f4")
      virtual[:] = h5py.VirtualSource("secret.h5", "x", (32,))
      f["layers/batch_normalization/vars"].create_virtual_dataset("0", virtual)
    assert "does not hold its own values" in refusal(weights)

  def test_group_that_holds_itself(self, weights):
    with h5py.File(weights, "r+") as f:
      f["layers/conv2d/layers"] = f["layers"]
    assert "nested too deeply" in refusal(weights)

  def test_additional_layer(self, weights):
    with h5py.File(weights, "r+") as f:
      f["layers/embedding/vars/0"] = np.zeros((3, 3), np.float32)
    assert keras3.read(weights).unexpected == ("layers/embedding/vars/0",)

  def test_second_dense_layer(self, weights):
    with h5py.File(weights, "r+") as f:
      f["layers/dense_1/vars/0"] = np.zeros((5, 3), np.float32)
    assert keras3.read(weights).duplicates == (
        "layers/dense_1/vars/0 (as layers/dense/vars/0)",)

  def test_bfloat16(self, weights):
    """As Keras 3 writes it: the upper halves of float32, and a note."""
    halves = np.array([0x3F80, 0xC000] * 16, np.uint16)
    with h5py.File(weights, "r+") as f:
      del f["layers/batch_normalization/vars/0"]
      f["layers/batch_normalization/vars/0"] = halves
      f["layers/batch_normalization/vars/0"].attrs["dtype"] = "bfloat16"
    gamma = keras3.read(weights).tensors["stem/bn/gamma"]
    assert gamma.dtype.name == "bfloat16"
    np.testing.assert_array_equal(gamma.read().astype(np.float32),
                                  [1.0, -2.0] * 16)

  def test_truncated(self, weights):
    content = weights.read_bytes()
    weights.write_bytes(content[:len(content) // 2])
    assert "cannot be read as a .keras" in refusal(weights)

  def test_absurd_shape_is_stated_not_read(self, weights):
    with h5py.File(weights, "r+") as f:
      del f["layers/conv2d/vars/0"]
      f["layers/conv2d/vars"].create_dataset(
          "0", (3, 3, 1 << 40, 32), "f4", chunks=(3, 3, 1, 32))
    found = keras3.read(weights)
    assert found.tensors["stem/conv"].shape == (3, 3, 1 << 40, 32)

  def test_what_is_not_of_these_formats(self, tiny, tmp_path):
    for name, content in (("text", b"hello"), ("empty", b""),
                          ("hdf", b"\x89HDF\r\n\x1a\n" + bytes(100)),
                          ("zip", b"PK\x03\x04" + bytes(100))):
      (tmp_path / name).write_bytes(content)
      assert not keras3.recognises(tmp_path / name)
    with h5py.File(tmp_path / "old.h5", "w") as f:
      f.attrs["layer_names"] = ["layers"]
      f.create_group("layers")
    assert not keras3.recognises(tmp_path / "old.h5")
    assert not keras3.recognises(tmp_path / "nothing")
    assert not keras3.recognises(tiny)
