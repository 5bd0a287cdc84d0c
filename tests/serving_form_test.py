"""The serving form as it is written and as its users load it."""

import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import tf_keras
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2

from checks import report
from checks import subject as subject_lib
from checks.forms import serving as serving_checks
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import hub_module
from hub_export import saved_model
from hub_export.forms import making
from hub_export.forms import serving
from hub_export.forms import warm_up
from hub_export.regnet import checkpoints
from hub_export.regnet import inference as network_lib
from tests import random_networks
from tests import tiny_inference

_TOLERANCES = {"float32": 1e-5, "bf16": 0.06}
_PRECISIONS = sorted(_TOLERANCES)


def _write(directory, precision="float32", kind="classifier", seed=0):
  choice = forms.chosen("serving", {"precision": precision})
  payload, = making.payloads([tiny_inference.make(kind, seed)], "serving",
                             choice)
  return saved_model.write(payload, directory, "local")


@pytest.fixture(scope="module", name="exports")
def _exports(tmp_path_factory):
  """Classifiers of both precisions, and a feature extractor."""
  directory = tmp_path_factory.mktemp("exports")
  made = {p: _write(directory, p).export_dir for p in _PRECISIONS}
  made["extractor"] = _write(directory, "bf16", "feature_extractor").export_dir
  return made


@pytest.fixture(scope="module", name="loaded")
def _loaded(exports):
  return {name: hub.load(str(path)) for name, path in exports.items()}


@pytest.mark.parametrize("precision", _PRECISIONS)
def test_outputs_are_the_references(loaded, precision):
  module = loaded[precision]
  made = tiny_inference.make()
  images = tf.constant(made.golden_images)
  tolerance = _TOLERANCES[precision]
  for logits in (module(images),
                 module.signatures["serving_default"](images)["logits"]):
    assert logits.dtype == tf.float32
    assert random_networks.difference(logits, made.golden_outputs) < tolerance
  features = module.signatures["feature_vector"](images)["features"]
  assert random_networks.difference(
      features, tiny_inference.make("feature_extractor").golden_outputs
  ) < tolerance
  assert random_networks.difference(module.head(features),
                                    made.golden_outputs) < tolerance


def test_a_feature_extractor_gives_features(loaded):
  module = loaded["extractor"]
  made = tiny_inference.make("feature_extractor")
  images = tf.constant(made.golden_images)
  assert sorted(module.signatures) == ["image_bytes", "serving_default"]
  for features in (module(images),
                   module.signatures["serving_default"](images)["features"]):
    assert random_networks.difference(features, made.golden_outputs) < 0.06


def test_image_bytes_is_preprocessing_and_serving_default(loaded):
  module = loaded["float32"]
  files = [tf.io.encode_png((tiny_inference.images(1, 50, 40, seed)[0] * 255)
                            .astype(np.uint8)).numpy() for seed in (3, 4)]
  found = module.signatures["image_bytes"](tf.constant(files))
  logits = module(tiny_inference.PREPROCESSING.apply_batch(tf.constant(files)))
  order = np.argsort(-logits.numpy(), axis=1)[:, :5]
  np.testing.assert_array_equal(found["classes"], order)
  np.testing.assert_array_equal(
      found["labels"].numpy().astype(str),
      np.array(tiny_inference.LABELS)[order])
  np.testing.assert_allclose(
      found["probabilities"],
      np.take_along_axis(tf.nn.softmax(logits).numpy(), order, 1), atol=1e-6)


@pytest.mark.parametrize("name", [*_PRECISIONS, "extractor"])
def test_nothing_is_variable_and_constants_are_there_once(exports, name):
  path = exports[name]
  # TensorFlow's own record of Python objects is the only entry.
  found = tf.train.list_variables(str(path / "variables" / "variables"))
  assert found == [("_CHECKPOINTABLE_OBJECT_GRAPH", [])]
  graph = (path / "saved_model.pb").stat().st_size
  network = tiny_inference.make().network(hub_module.Build(
      dtype="float32" if name == "float32" else "bfloat16"))
  # The functions without their weights take some 180 kB.
  assert graph < network.num_bytes + 300_000


def test_bf16_weights_take_half_the_room(exports):
  sizes = {p: (exports[p] / "saved_model.pb").stat().st_size
           for p in _PRECISIONS}
  assert sizes["bf16"] < sizes["float32"]


def test_training_is_refused_with_what_to_do(exports, loaded):
  images = tf.constant(tiny_inference.images())
  with pytest.raises(tf.errors.InvalidArgumentError, match="main form"):
    loaded["float32"](images, training=True)
  layer = hub.KerasLayer(str(exports["float32"]), trainable=True)
  model = tf_keras.Sequential([layer, tf_keras.layers.Dense(2)])
  model.compile(loss="mse")
  assert not layer.trainable_weights
  with pytest.raises(tf.errors.InvalidArgumentError, match="main form"):
    model.fit(images, np.zeros((2, 2)), verbose=0)
  # As a layer that is not trained, it does its work in training too.
  frozen = hub.KerasLayer(str(exports["float32"]), trainable=False)
  model = tf_keras.Sequential([frozen, tf_keras.layers.Dense(2)])
  model.compile(loss="mse")
  assert np.isfinite(model.fit(images, np.zeros((2, 2)),
                               verbose=0).history["loss"]).all()


@pytest.mark.parametrize("name", [*_PRECISIONS, "extractor"])
def test_it_is_no_checkpoint(exports, name):
  task = "feature_extractor" if name == "extractor" else "classification"
  for path in (exports[name], exports[name] / "saved_model.pb"):
    with pytest.raises(errors.CheckpointError) as e:
      checkpoints.open(path)
    assert "in the form serving, for inference alone" in str(e.value)
    assert f"main form of the same weights (local/tiny_{task})" in str(e.value)


def test_the_manifest_tells_it_apart(exports):
  manifests = {name: export_dirs.read_manifest(path)
               for name, path in exports.items()}
  for precision in _PRECISIONS:
    record = manifests[precision]
    assert record["handle"] == f"local/tiny_classification_serving_{precision}/1"
    assert record["form"] == "serving" and record["precision"] == precision
    assert record["companion"] == (
        f"local/tiny_feature_extractor_serving_{precision}")
    # It takes float32 alone, whatever it computes in.
    assert record["inputs"]["dtype"] == "float32"
    assert "compute_dtypes" not in record["inputs"]
  assert "loss" not in manifests["float32"]
  assert manifests["bf16"]["loss"]["top1_points"] == 0.5
  assert export_dirs.companion(
      exports["extractor"], manifests["extractor"]) == exports["bf16"]


def test_the_manifest_has_the_sha256_of_every_file(exports):
  """As sha256sum prints it."""
  for path in exports.values():
    record = export_dirs.read_manifest(path)
    assert {f["name"]: (f["bytes"], f["sha256"]) for f in record["files"]} == {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name in (
            "saved_model.pb", "fingerprint.pb", "variables/variables.index",
            "variables/variables.data-00000-of-00001",
            "assets.extra/batching_parameters.txt",
            "assets.extra/tf_serving_warmup_requests")
        for content in [(path / name).read_bytes()]}


@pytest.mark.parametrize("precision", _PRECISIONS)
def test_the_manifest_has_the_sha256_of_the_folded_weights(exports, precision):
  """Folded by hand: times gamma / sqrt(variance + 1e-5), the stem by std."""
  tensors = tiny_inference.tensors(tiny_inference.architecture())
  dtype = tf.as_dtype(serving._DTYPES[precision]).as_numpy_dtype
  found = {"mean": np.float32(tiny_inference.MEAN)}
  for name, value in tensors.items():
    if name.startswith("head/"):
      found[name] = value
    elif "/se/" in name:
      found[name] = value.reshape(value.shape[-2:] if value.ndim == 4 else -1
                                  ).astype(dtype)
    elif name.endswith("/conv"):
      layer = name.removesuffix("/conv")
      gamma, beta, mean, variance = (
          tensors[f"{layer}/bn/{leaf}"].astype(np.float64)
          for leaf in ("gamma", "beta", "moving_mean", "moving_variance"))
      scale = gamma / np.sqrt(variance + 1e-5)
      kernel = value * scale
      if layer == "stem":
        # As the exporter does: a reciprocal, then a product, in float64.
        kernel = kernel * (1 / np.float64(tiny_inference.STD))[:, None]
      found[f"{layer}/kernel"] = kernel.astype(dtype)
      found[f"{layer}/bias"] = (beta - mean * scale).astype(dtype)
  digest = hashlib.sha256()
  for name in sorted(found):
    value = found[name]
    digest.update(f"{name} {value.dtype} {value.shape}\n".encode()
                  + value.tobytes())
  assert export_dirs.read_manifest(exports[precision])["folded_weights"] == {
      "constants": len(found), "sha256": digest.hexdigest()}


def test_the_same_again_is_the_same_version(exports, tmp_path):
  directory = exports["bf16"].parents[2]
  again = _write(directory, "bf16")
  assert (again.export_dir, again.is_new) == (exports["bf16"], False)
  assert _write(tmp_path, "bf16", seed=1).is_new
  assert export_dirs.digest(_write(tmp_path, "bf16").export_dir) != (
      export_dirs.digest(tmp_path / "local"
                         / "tiny_classification_serving_bf16" / "1"))


def test_too_large_for_a_graph_is_refused_before_anything_is_written(tmp_path):
  made = tiny_inference.make()

  class Huge:
    num_bytes = 1 << 31

  huge = hub_module.Inference(
      **{**vars(made), "network": lambda build: Huge()})
  with pytest.raises(errors.HubExportError, match="--precision=bf16"):
    list(making.payloads([huge], "serving",
                         forms.chosen("serving", {"precision": None})))
  assert not list(tmp_path.iterdir())


def test_a_payload_that_fails_leaves_nothing(tmp_path):
  payload = serving.make(
      tiny_inference.make(), forms.chosen("serving", {"precision": None}),
      "tiny_serving", {"companion": None})

  def fail(directory):
    payload.write(directory)
    raise OSError(28, "No space left on device")

  broken = hub_module.Payload(**{**vars(payload), "write": fail})
  with pytest.raises(errors.WriteError, match="Free some space"):
    saved_model.write(broken, tmp_path / "exports", "local")
  assert not list(tmp_path.iterdir())


def test_every_group_of_checks_is_there_or_nothing_could_be_published():
  groups = {check.group for check in serving_checks.CHECKS}
  assert groups | {"card"} == set(report.GROUPS)


# What tensorflow-serving-api 2.21.0 wrote for the first of these.
_LOG = bytes.fromhex(
    "325d0a5b0a330a2074696e795f636c617373696669636174696f6e5f73657276696e675f62"
    "6631361a0f73657276696e675f64656661756c7412240a06696d6167657312"
    "1a08011210120208041202082012020820120208032a040000003f")


def test_warm_up_is_what_tensorflow_serving_reads(exports):
  records = list(tf.data.TFRecordDataset(
      str(exports["bf16"] / warm_up.REQUESTS)).as_numpy_iterator())
  # That of a batch of 4.
  assert records[warm_up.BATCH_SIZES.index(4)] == _LOG
  request = warm_up.read(_LOG)
  assert request.model == "tiny_classification_serving_bf16"
  assert request.signature == "serving_default"
  np.testing.assert_array_equal(
      request.inputs["images"], np.full((4, 32, 32, 3), 0.5, np.float32))
  last = warm_up.read(records[-1])
  assert last.signature == "image_bytes"
  file = last.inputs["image_bytes"][0]
  assert tf.io.decode_image(file).shape == (32, 32, 3)
  with pytest.raises(errors.HubExportError, match="PredictionLog"):
    warm_up.read(b"\xff\xff")
  # More values than the shape has room for.
  with pytest.raises(errors.HubExportError, match="Export the checkpoint"):
    warm_up.read(_LOG.replace(bytes.fromhex("2a04 0000003f"),
                              bytes.fromhex("2204 0000003f")))


# tensorflow_serving/apis/{prediction_log,predict,model}.proto, field by field.
_FIELDS = {
    "PredictionLog": {6: "PredictLog"}, "PredictLog": {1: "PredictRequest"},
    "PredictRequest": {1: "ModelSpec", 2: "Entry"},
    "ModelSpec": {1: str, 3: str}, "Entry": {1: str, 2: bytes}}


def _decoded(kind, content):
  """Returns [(field number, value)] of a message of the wire format.

  It shares nothing with what wrote the message. All that these have are fields
  of a length (wire type 2), of less than 2^14 bytes.
  """
  if kind is bytes or kind is str:
    return content if kind is bytes else content.decode()
  found, at = [], 0
  while at < len(content):
    number, wire_type = divmod(content[at], 8)
    assert wire_type == 2 and number in _FIELDS[kind]
    size, at = content[at + 1], at + 2
    if size >= 128:
      size, at = size - 128 + 128 * content[at], at + 1
      assert size < 1 << 14
    assert at + size <= len(content)
    found.append((number, _decoded(_FIELDS[kind][number],
                                   content[at:at + size])))
    at += size
  return found


@pytest.mark.parametrize("name", [*_PRECISIONS, "extractor"])
def test_every_warm_up_request_fits_its_signature(exports, loaded, name):
  model_name = exports[name].parent.name
  called = []
  for record in tf.data.TFRecordDataset(
      str(exports[name] / warm_up.REQUESTS)).as_numpy_iterator():
    (_, predict_log), = _decoded("PredictionLog", record)
    (_, request), = predict_log
    (spec, (model, signature)), (entry, (key, value)) = [
        (number, [field for _, field in fields]) for number, fields in request]
    assert (spec, entry, model) == (1, 2, model_name)
    tensor = tensor_pb2.TensorProto.FromString(value)
    wanted = loaded[name].signatures[signature].structured_input_signature[1]
    assert [*wanted] == [key]
    shape = [d.size for d in tensor.tensor_shape.dim]
    assert wanted[key].dtype == tensor.dtype
    assert wanted[key].shape.is_compatible_with(shape)
    called.append((signature, *shape))
  size = tiny_inference.SIZE_PX
  assert called == [("serving_default", n, size, size, 3) for n in
                    (1, 2, 4, 8, 16, 32)] + [("image_bytes", 1)]


def test_batching_ends_with_the_largest_size(exports):
  """As TensorFlow Serving asks for."""
  lines = (exports["bf16"] / warm_up.BATCHING).read_text().splitlines()
  allowed = [int(line.split(": ")[1]) for line in lines
             if line.startswith("allowed_batch_sizes")]
  assert allowed == sorted(allowed)
  assert f"max_batch_size {{ value: {allowed[-1]} }}" in lines


class TestChecks:
  """The form's own checks, on the export and on spoilt copies of it."""

  def _subject(self, path):
    manifest = export_dirs.read_manifest(path)
    return subject_lib.Subject(path, manifest, "none", "none", None, 8)

  def _result(self, path, name):
    check, = [c for c in serving_checks.CHECKS if c.name == name
              and c.group != "accuracy"]
    return check.function(self._subject(path))

  @pytest.mark.parametrize("name", [*_PRECISIONS, "extractor"])
  def test_a_sound_export_passes(self, exports, name):
    subject = self._subject(exports[name])
    # The preprocessing is not the form's, and the manifest's data are made up.
    kind = subject.manifest["kind"]
    for check in serving_checks.CHECKS:
      if check.group != "accuracy" and kind in check.kinds and (
          check.name not in ("preprocessing", "repeatable")):
        result = check.function(subject)
        assert result.status == report.PASSED, (check.name, result.message)

  def test_bf16_in_the_name_of_float32_fails(self, exports, tmp_path):
    path = _copy(exports["bf16"], tmp_path)
    _edit(path, lambda m: m.update(precision="float32"))
    assert self._result(path, "golden").status == report.FAILED
    assert self._result(path, "manifest").status == report.FAILED

  @pytest.mark.parametrize("precision", _PRECISIONS)
  def test_an_altered_weight_fails(self, exports, tmp_path, precision):
    path = _copy(exports[precision], tmp_path)
    content = (path / "saved_model.pb").read_bytes()
    model = saved_model_pb2.SavedModel.FromString(content)
    kernel = max((node.attr["value"].tensor
                  for function in model.meta_graphs[0].graph_def.library.function
                  for node in function.node_def if node.op == "Const"),
                 key=lambda tensor: tensor.ByteSize())
    values = tf.make_ndarray(kernel)
    assert values.ndim == 4  # A convolution's.
    kernel.CopyFrom(tf.make_tensor_proto(-values))
    (path / "saved_model.pb").write_bytes(model.SerializeToString())
    result = self._result(path, "golden")
    assert result.status == report.FAILED
    assert "standard deviations of the outputs; expected" in result.message

  @pytest.mark.parametrize("change,words", [
      (lambda c: _set(c["stage2/block2/b/bias"], lambda v: v * 0),
       "sha256 of the graph's weights: "),
      (lambda c: _exchange(c["stage2/block1/c/kernel"],
                           c["stage2/block2/a/kernel"]),
       "sha256 of the graph's weights: "),
      (lambda c: _set(c["head/bias"], lambda v: v.astype(np.float64)),
       "sha256 of the graph's weights: "),
      (lambda c: setattr(c["stem/bias"], "name", "weights/stem/kernel"),
       "stem/kernel is there twice"),
      (lambda c: setattr(c["stem/bias"], "name", "more"),
       "beside the weights there is a constant more"),
      (lambda c: setattr(c["head/bias"], "op", "Placeholder"),
       # By hand: stem, head and four shortcuts, 2 each; five blocks, 10; mean.
       "constants of the graph's weights: 62, in the manifest: 63")])
  def test_other_constants_fail(self, exports, tmp_path, change, words):
    path = _copy(exports["bf16"], tmp_path)
    assert self._result(path, "weights").status == report.PASSED
    content = (path / "saved_model.pb").read_bytes()
    model = saved_model_pb2.SavedModel.FromString(content)
    change({node.name.removeprefix("weights/"): node
            for function in model.meta_graphs[0].graph_def.library.function
            for node in function.node_def})
    (path / "saved_model.pb").write_bytes(model.SerializeToString())
    result = self._result(path, "weights")
    assert result.status == report.FAILED and words in result.message
    assert result.message.endswith("Export the checkpoint again.")

  def test_what_golden_outputs_let_pass_between_folding_and_graph(
      self, monkeypatch, tmp_path):
    constant = network_lib._constant

    def wrong(value, name):
      if name == "stage3/block1/c/kernel":
        value = value.copy()
        value[..., 3] = 0
      return constant(value, name)

    monkeypatch.setattr(network_lib, "_constant", wrong)
    path = _write(tmp_path, "bf16").export_dir
    for name, status in (("golden", report.PASSED), ("hashes", report.PASSED),
                         ("weights", report.FAILED)):
      assert self._result(path, name).status == status, name

  @pytest.mark.parametrize("name,key", [
      ("hashes", "files"), ("weights", "folded_weights")])
  def test_an_export_of_an_earlier_program_is_told(self, exports, tmp_path,
                                                   name, key):
    path = _copy(exports["float32"], tmp_path)
    for change in (lambda m: m.pop(key), lambda m: m.update({key: 3}),
                   lambda m: m.update({key: ["a"]})):
      _edit(path, change)
      message = self._result(path, name).message
      assert "exports of earlier programs lack" in message
      assert message.endswith("Export the checkpoint again.")

  def test_what_is_no_saved_model_is_told(self, exports, tmp_path):
    path = _copy(exports["float32"], tmp_path)
    (path / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(errors.ChecksError, match="expected a SavedModel"):
      self._result(path, "weights")

  def test_a_greater_loss_in_the_manifest_fails(self, exports, tmp_path):
    path = _copy(exports["bf16"], tmp_path)
    _edit(path, lambda m: m["loss"].update(top1_points=5.0))
    result = self._result(path, "manifest")
    assert "loss is" in result.message and "expected" in result.message

  def test_the_name_of_the_main_form_fails(self, exports, tmp_path):
    path = _copy(exports["bf16"], tmp_path)
    _edit(path, lambda m: m.update(handle="local/tiny_classification/1"))
    assert "_serving_bf16" in self._result(path, "manifest").message

  def test_variables_fail(self, tmp_path):
    """Those of a module in another form."""
    root = hub_module.ReusableModule()
    root.variables = [tf.Variable(1.0)]
    root.trainable_variables = root.regularization_losses = []
    tf.saved_model.save(root, str(tmp_path))
    result = serving_checks.no_variables(_Subject(tmp_path, root))
    assert "variables is missing or not empty" in result.message
    assert "a variable" in result.message
    result = serving_checks.refused(_Subject(tmp_path, root))
    assert "is not refused" in result.message

  def test_missing_or_foreign_warm_up_fails(self, exports, tmp_path):
    path = _copy(exports["float32"], tmp_path)
    (path / warm_up.BATCHING).write_text("max_batch_size { value: 7 }\n")
    assert "not as it was" in self._result(path, "warm_up").message
    for name in (warm_up.BATCHING, warm_up.REQUESTS):
      (path / name).unlink()
      assert f"{name} is missing" in self._result(path, "files").message

  def _with_requests(self, exports, directory, requests):
    """Returns what the check says of other requests."""
    path = _copy(exports["float32"], directory)
    with tf.io.TFRecordWriter(str(path / warm_up.REQUESTS)) as writer:
      for request in requests:
        writer.write(request)
    return self._result(path, "warm_up")

  def test_other_warm_up_requests_fail(self, exports, tmp_path):
    name, size = exports["float32"].parent.name, tiny_inference.SIZE_PX
    sound = list(warm_up.requests(name, size))
    for i, requests in enumerate((
        sound[:-1], sound[1:], [*sound, sound[0]], [],
        warm_up.requests(name, size + 1))):
      result = self._with_requests(exports, tmp_path / str(i), requests)
      assert result.status == report.FAILED
      assert "the requests are" in result.message
    result = self._with_requests(exports, tmp_path / "name",
                                 warm_up.requests("other", size))
    assert f"a request is for 'other', not for {name}" in result.message
    assert "the requests are" not in result.message
    assert self._with_requests(
        exports, tmp_path / "sound", sound).status == report.PASSED


class _Subject:
  """What the check of variables asks for."""
  min_size_px = 32

  def __init__(self, export_dir, model):
    self.export_dir = export_dir
    self.model = lambda images, training: None
    self.model.__dict__.update(
        variables=model.variables, trainable_variables=[],
        regularization_losses=[])


def _set(node, change):
  value = change(tf.make_ndarray(node.attr["value"].tensor))
  node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
  node.attr["dtype"].type = node.attr["value"].tensor.dtype


def _exchange(one, other):
  values = [tf.make_ndarray(node.attr["value"].tensor) for node in (one, other)]
  assert values[0].shape == values[1].shape
  _set(one, lambda _: values[1])
  _set(other, lambda _: values[0])


def _copy(path, directory):
  copy = directory / path.parents[1].name / path.parent.name / path.name
  for name in export_dirs.files(path):
    target = copy / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((path / name).read_bytes())
  return copy


def _edit(path, change):
  manifest = export_dirs.read_manifest(path)
  change(manifest)
  (path / export_dirs.MANIFEST).write_text(json.dumps(manifest))
