"""Modules of this project, fine-tuned and saved, read back as checkpoints.

The module is a feature extractor as it is exported, of a network with four
blocks; it is fine-tuned for one step through hub.KerasLayer with a new dense
layer on it. What is read has to be what the layer's variables hold.
"""

import json
import pathlib
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from tensorflow.core.protobuf import saved_model_pb2

from hub_export import errors
from hub_export.regnet import modules
from hub_export.regnet import network
from hub_export.regnet import variants
from hub_export.regnet.checkpoints import hub_graph
from hub_export.regnet.checkpoints import hub_saved_model
from hub_export.regnet.checkpoints import keras3
from hub_export.regnet.checkpoints import tf_checkpoint
from tests import regnety_standin

TINY = variants.Variant("tiny", depth=4, w_0=8, w_a=8.0, w_m=1.3, group_width=8)
SIZE_PX = 32
CLASSES = 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MANIFEST = {"schema_version": 1, "family": "regnet", "variant": "tiny"}
DENSE_NOTE = "kernel is taken as the head; its activation is not"


def module(convention, mean, std, classes=0, portable=False):
  """Returns a module with its traces for both values of `training`."""
  arch, = variants.architectures(TINY, convention)
  net = network.Network(arch, network.initial_tensors(arch, classes, seed=1),
                        mean, std, portable)
  if classes:
    root = modules.Classifier(net, [str(i) for i in range(classes)], None)
  else:
    root = modules.FeatureExtractor(net, None)
  images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
  for training in (False, True):
    root.__call__.get_concrete_function(
        images, training=training,
        batch_norm_momentum=tf.TensorSpec([], tf.float32, name="momentum"))
  return root


def values(variables_):
  return {v.name.removesuffix(":0"): v.numpy() for v in variables_}


@pytest.fixture(name="saved", scope="module")
def _saved(tmp_path_factory):
  """Returns (directory with the model in all forms, what is in each)."""
  directory = tmp_path_factory.mktemp("saved")
  export = directory / "export"
  root = module("torch", MEAN, STD)
  tf.saved_model.save(root, str(export))
  (export / "assets.extra").mkdir()
  (export / "assets.extra" / "manifest.json").write_text(json.dumps(MANIFEST))
  layer = hub.KerasLayer(str(export), trainable=True)
  model = tf_keras.Sequential([
      tf_keras.layers.InputLayer((SIZE_PX, SIZE_PX, 3)), layer,
      tf_keras.layers.Dense(CLASSES)])
  model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(
      from_logits=True), metrics=["accuracy"])
  images = np.random.default_rng(0).random(
      (4, SIZE_PX, SIZE_PX, 3), np.float32)
  model.fit(images, np.arange(4) % CLASSES, epochs=1, verbose=0)
  model.save(directory / "directory")
  model.save_weights(directory / "checkpoint" / "m")
  tf.train.Checkpoint(model=model, opt=model.optimizer).save(
      str(directory / "trainer" / "m"))
  model.save(directory / "m.h5")
  model.save_weights(directory / "w.h5")
  model.save(directory / "m.keras")
  model.save_weights(directory / "m.weights.h5")
  tuned = values(layer.variables)
  kernel, bias = model.layers[-1].get_weights()
  resaved = hub.load(str(export))
  for variable in resaved.variables:
    variable.assign(variable * 2 + 1)
  tf.saved_model.save(resaved, str(directory / "resaved"))
  with_head = tuned | {"head/kernel": kernel, "head/bias": bias}
  return directory, {
      "export": values(root.variables), "resaved": values(resaved.variables),
      "tuned": with_head}


@pytest.fixture(name="path_of")
def _path_of(saved, tmp_path):
  """Returns a function that copies one of the forms, to be spoilt."""
  def copied(name):
    copy = shutil.copytree if (saved[0] / name).is_dir() else shutil.copy
    return pathlib.Path(copy(saved[0] / name, tmp_path / name))
  return copied


def assert_read(path, expected):
  """Asserts that a path has these tensors and nothing else; returns them."""
  assert hub_saved_model.recognises(path)
  found = hub_saved_model.read(path)
  assert (found.unexpected, found.duplicates) == ((), ())
  assert found.source == "hub"
  assert set(found.tensors) == set(expected)
  for name, tensor in expected.items():
    assert found.tensors[name].shape == tensor.shape
    np.testing.assert_array_equal(found.tensors[name].read(), tensor, name)
  return found


def refusal(path):
  """Returns the message with which a path is refused, sooner or later."""
  with pytest.raises(errors.CheckpointError) as e:
    for tensor in hub_saved_model.read(path).tensors.values():
      tensor.read()
  return str(e.value)


class TestForms:

  def test_the_step_changed_every_kind_of_variable(self, saved):
    before, after = saved[1]["export"], saved[1]["tuned"]
    for name in ("stem/conv", "stage4/block1/c/bn/gamma",
                 "stage2/block1/se/squeeze/kernel", "stem/bn/moving_mean"):
      assert not np.array_equal(before[name], after[name])
    arch, = variants.architectures(TINY, "torch")
    assert {n: t.shape for n, t in after.items()} == (
        variants.tensor_shapes(arch, CLASSES))

  def test_export(self, saved):
    found = assert_read(saved[0] / "export", saved[1]["export"])
    assert found.manifest == MANIFEST
    assert found.notes == ()
    assert found.format == "saved_model"
    assert [f.name for f in found.files] == [
        "saved_model.pb", "variables.index", "variables.data-00000-of-00001",
        "manifest.json"]

  def test_resaved(self, saved):
    found = assert_read(saved[0] / "resaved", saved[1]["resaved"])
    assert found.manifest is None
    assert (found.convention, found.mean, found.std) == ("torch", MEAN, STD)

  @pytest.mark.parametrize("name, file_format, convention", [
      ("directory", "saved_model", "torch"),
      ("checkpoint", "tf_checkpoint", None),
      ("checkpoint/m", "tf_checkpoint", None),
      ("checkpoint/m.index", "tf_checkpoint", None),
      ("trainer/m-1", "tf_checkpoint", None),
      ("m.h5", "keras_h5", None), ("w.h5", "keras_h5", None),
      ("m.keras", "keras3", None), ("m.weights.h5", "keras3", None)])
  def test_fine_tuned(self, saved, name, file_format, convention):
    found = assert_read(saved[0] / name, saved[1]["tuned"])
    assert (found.format, found.convention) == (file_format, convention)
    assert found.manifest is None
    assert len(found.notes) == 1 and DENSE_NOTE in found.notes[0]


class TestConvention:

  @pytest.mark.parametrize("convention, mean, std, portable", [
      ("keras", (0.0,) * 3, (1.0,) * 3, False), ("regnety", MEAN, STD, True)])
  def test_graph_tells(self, convention, mean, std, portable, tmp_path):
    """The third one, torch, is that of the module in TestForms."""
    tf.saved_model.save(module(convention, mean, std, portable=portable),
                        str(tmp_path))
    assert hub_graph.read(tmp_path / "saved_model.pb") == hub_graph.Built(
        convention, mean, std)

  def changed(self, path, change):
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in model.meta_graphs:
      for function in graph.graph_def.library.function:
        change({node.name: node for node in function.node_def})
    path.write_bytes(model.SerializeToString())
    return hub_graph.read(path)

  def test_other_paddings_are_unclear(self, path_of):
    path = path_of("resaved") / "saved_model.pb"

    def change(nodes):
      for node in nodes.values():
        if node.op == "Conv2D":
          node.attr["padding"].s = b"EXPLICIT"
    assert self.changed(path, change) is None

  def test_functions_that_disagree_are_unclear(self, path_of):
    path, seen = path_of("resaved") / "saved_model.pb", []

    def change(nodes):
      for node in nodes.values():
        if node.op == "Pad" and not seen:
          node.op = "Identity"
          seen.append(node)
    assert self.changed(path, change) is None

  def test_another_normalisation_is_unclear(self, path_of):
    path = path_of("resaved") / "saved_model.pb"

    def change(nodes):
      for node in nodes.values():
        if node.op == "Sub":
          node.input[1] = "images"
    assert self.changed(path, change) == hub_graph.Built("torch", None, None)


class TestHead:

  @pytest.fixture(name="tuned", scope="class")
  @classmethod
  def _tuned(cls, saved):
    """A model of the saved module's variables, as plain objects."""
    model = tf.Module()
    model.layers = [tf.Variable(v, name=n) for n, v in saved[1]["tuned"].items()
                    if not n.startswith("head/")]
    return model

  def written(self, tuned, extra, prefix):
    model = tf.train.Checkpoint(module=tuned, extra=[
        tf.Variable(np.zeros(shape, dtype), name=name)
        for name, shape, dtype in extra])
    return pathlib.Path(model.write(str(prefix)))

  @pytest.mark.parametrize("extra", [
      [("dense/kernel", (64, 8)), ("dense/bias", (8,)),
       ("dense_1/kernel", (8, 3)), ("dense_1/bias", (3,))],
      [("dense/kernel", (31, 3)), ("dense/bias", (3,))],
      [("dense/kernel", (32, 3)), ("dense/bias", (4,))],
      [("dense/kernel", (32, 3))],
      [("dense/bias", (3,))],
      [("normalization/mean", (3,)), ("normalization/variance", (3,))]])
  def test_anything_but_one_dense_layer(self, tuned, extra, tmp_path):
    extra = [(*e, np.float32) for e in extra]
    message = refusal(self.written(tuned, extra, tmp_path / "m"))
    assert f"holds {len(extra)} variables that are not the module's" in message
    assert f"{extra[0][0]} [" in message
    assert "a kernel [32, classes] and a bias [classes]" in message

  def test_counters_and_generators_do_not_matter(self, tuned, tmp_path):
    prefix = self.written(tuned, [("steps", (), np.int64),
                                  ("logits/kernel", (32, 9), np.float32),
                                  ("logits/bias", (9,), np.float32)],
                          tmp_path / "m")
    found = hub_saved_model.read(prefix)
    assert found.tensors["head/kernel"].shape == (32, 9)
    assert found.tensors["head/bias"].name == "logits/bias"
    assert found.unexpected == ()

  def test_dense_layer_on_a_classifier(self, tuned, tmp_path):
    prefix = self.written(tuned, [
        ("head/kernel", (32, 5), np.float32), ("head/bias", (5,), np.float32),
        ("dense/kernel", (5, 3), np.float32), ("dense/bias", (3,), np.float32)],
                          tmp_path / "m")
    message = refusal(prefix)
    assert "a classifier with its own head, and 2 more variables" in message
    assert "dense/kernel [5, 3]" in message

  def test_two_modules(self, tuned, tmp_path):
    prefix = self.written(tuned, [("stem/conv", (3, 3, 3, 32), np.float32)],
                          tmp_path / "m")
    assert len(hub_saved_model.read(prefix).duplicates) == 1

  def test_classifier_in_a_file_without_names(self, tmp_path):
    """The order has the head in the middle, before the statistics."""
    root = module("keras", (0.0,) * 3, (1.0,) * 3, classes=5)
    for i, variable in enumerate(root.variables):
      variable.assign(tf.fill(variable.shape, float(i)))
    ordered = [*root.trainable_variables,
               *(v for v in root.variables if not v.trainable)]
    with h5py.File(tmp_path / "m.weights.h5", "w") as f:
      for i, variable in enumerate(ordered):
        f[f"layers/keras_layer/vars/{i}"] = variable.numpy()
    found = assert_read(tmp_path / "m.weights.h5", values(root.variables))
    assert found.notes == ()


class TestTold:

  def test_from_the_regnety_project(self, tmp_path):
    """Both are TensorFlow checkpoints; these are not this reader's."""
    regnety_standin.MODELS["tiny"] = ((1, 1, 1, 1), (8, 16, 24, 32), 8)
    try:
      model = regnety_standin.build("tiny")
    finally:
      del regnety_standin.MODELS["tiny"]
    model.save_weights(tmp_path / "best")
    assert tf_checkpoint.recognises(tmp_path / "best")
    assert not hub_saved_model.recognises(tmp_path / "best")
    assert "stem/conv" in tf_checkpoint.read(tmp_path / "best").tensors

  def test_from_other_files(self, saved, tmp_path):
    for name, content in (("text", b"hello"), ("empty", b""),
                          ("hdf", b"\x89HDF\r\n\x1a\n" + bytes(100))):
      (tmp_path / name).write_bytes(content)
      assert not hub_saved_model.recognises(tmp_path / name)
    with h5py.File(tmp_path / "k.weights.h5", "w") as f:
      f["layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 32), np.float32)
    assert keras3.recognises(tmp_path / "k.weights.h5")
    assert not hub_saved_model.recognises(tmp_path / "k.weights.h5")
    assert not hub_saved_model.recognises(tmp_path)
    assert not hub_saved_model.recognises(tmp_path / "nothing")
    assert "is neither a SavedModel nor" in refusal(tmp_path / "text")


class TestDamaged:

  def test_checkpoint_without_its_values_is_nobody_elses(self, path_of):
    """Nor the regnety project's, by whose convention it would be built."""
    path = path_of("checkpoint")
    (path / "m.data-00000-of-00001").unlink()
    assert not hub_saved_model.recognises(path)
    with pytest.raises(errors.CheckpointError, match="cannot be read as a Ten"):
      tf_checkpoint.read(path)

  def test_truncated_variables(self, path_of):
    path = path_of("export")
    data = path / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    assert "cannot be read as a TensorFlow checkpoint" in refusal(path)

  def test_missing_shard(self, path_of):
    path = path_of("export")
    (path / "variables" / "variables.data-00000-of-00001").unlink()
    assert "cannot be read as a TensorFlow checkpoint" in refusal(path)

  def test_missing_variables(self, path_of):
    path = path_of("export")
    shutil.rmtree(path / "variables")
    assert "variables is no TensorFlow checkpoint" in refusal(path)

  @pytest.mark.parametrize("change", [
      lambda content: content[:len(content) // 2],
      lambda content: b"\xff" * 99, lambda content: b""])
  def test_broken_graph(self, path_of, change):
    path = path_of("export")
    graph = path / "saved_model.pb"
    graph.write_bytes(change(graph.read_bytes()))
    assert "cannot be read as the graph of a SavedModel" in refusal(path)

  @pytest.mark.parametrize("constant", [
      tf.make_tensor_proto(["a", "b", "c"]),
      tf.make_tensor_proto([True, False, True]),
      tf.make_tensor_proto([1j, 2j, 3j])])
  def test_mean_that_is_no_number(self, path_of, constant):
    path = path_of("export")
    content = (path / "saved_model.pb").read_bytes()
    model = saved_model_pb2.SavedModel.FromString(content)
    for function in model.meta_graphs[0].graph_def.library.function:
      for node in function.node_def:
        shape = node.attr["value"].tensor.tensor_shape
        if node.op == "Const" and [d.size for d in shape.dim] == [3]:
          node.attr["value"].tensor.CopyFrom(constant)
    (path / "saved_model.pb").write_bytes(model.SerializeToString())
    assert hub_graph.read(path / "saved_model.pb") == hub_graph.Built(
        "torch", None, None)

  @pytest.mark.parametrize("content", [
      b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (5 << 20)])
  def test_broken_manifest(self, path_of, content):
    path = path_of("export")
    (path / "assets.extra" / "manifest.json").write_bytes(content)
    assert "cannot be read as an export's manifest" in refusal(path)

  @pytest.mark.parametrize("graph", [b"\xff" * 50, b"\x0a\x05\x12\x03"])
  def test_broken_object_graph(self, tmp_path, graph):
    prefix = tmp_path / "m"
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=["_CHECKPOINTABLE_OBJECT_GRAPH"],
        shape_and_slices=[""], tensors=[tf.constant(graph)])
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(prefix)],
                                  destination_prefix=f"{prefix}2")
    assert not hub_saved_model.recognises(tmp_path / "m2")
    assert "cannot be read as a TensorFlow checkpoint" in refusal(
        tmp_path / "m2")

  def test_object_graph_names_a_key_that_is_not_there(self, saved, tmp_path):
    opened = tf_checkpoint.open_reader(saved[0] / "checkpoint")
    graph = opened.object_graph().SerializeToString()
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "m"), tensor_names=[
            "_CHECKPOINTABLE_OBJECT_GRAPH"],
        shape_and_slices=[""], tensors=[tf.constant(graph)])
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(tmp_path / "m")],
                                  destination_prefix=str(tmp_path / "m2"))
    assert "cannot be read as a TensorFlow checkpoint" in refusal(
        tmp_path / "m2")

  def test_link_in_an_h5_file(self, path_of):
    path = path_of("w.h5")
    with h5py.File(path, "r+") as f:
      del f["keras_layer/stem/conv:0"]
      f["keras_layer/stem/conv:0"] = h5py.ExternalLink("other.h5", "/secret")
    assert "stem/conv:0 is a link" in refusal(path)

  def test_variable_too_few_where_only_the_order_counts(self, path_of):
    path = path_of("m.weights.h5")
    with h5py.File(path, "r+") as f:
      variables = f["layers/keras_layer/vars"]
      count = len(variables)
      del variables[str(count - 1)]
    message = refusal(path)
    assert "not those of a module of this project in their order" in message
    assert f"there are {count - 1}, where its convolutions ask for {count}" in (
        message)

  def test_gap_where_only_the_order_counts(self, path_of):
    path = path_of("m.weights.h5")
    with h5py.File(path, "r+") as f:
      f.move("layers/keras_layer/vars/3", "layers/keras_layer/vars/999")
    assert "vars has no '3'" in refusal(path)
