"""Tests of the trainability checks on sound exports and planted faults."""

import pytest
import tensorflow as tf

from checks import numerics
from checks import trainability
from tests import tiny_saved_model
from tests import tiny_subject

CHECKS = {f.__name__: f for f in (
    trainability.gradients, trainability.moving_statistics,
    trainability.mixed_precision, trainability.fine_tuning, trainability.mirrored)}

# Before any test computes something, also those of other files.
trainability.two_logical_devices()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Returns a function from (kind, fault) to a subject, each export once."""
  directory = tmp_path_factory.mktemp("made")
  exports = {}

  def make(kind="classifier", fault=None):
    if (kind, fault) not in exports:
      exports[kind, fault] = tiny_saved_model.write(
          directory / f"{kind}_{fault}", directory / "data", kind, fault)
    return tiny_subject.of(exports[kind, fault])

  return make


@pytest.mark.parametrize("kind", ["classifier", "feature_extractor"])
@pytest.mark.parametrize("name", CHECKS)
def test_sound(made, kind, name):
  result = CHECKS[name](made(kind))
  assert result.status == "passed", result.message


@pytest.mark.parametrize("fault, name, message", [
    ("untrainable", "gradients", "stem/gamma:0 has no gradient"),
    ("nan_weights", "gradients", "is not finite"),
    ("moving_at_inference", "moving_statistics",
     "stem/moving_mean:0 changes at inference"),
    ("fixed_momentum", "moving_statistics",
     "at 0.5 it moves 1.00 times as far as at 0.9, expected 5"),
    ("frozen_statistics", "moving_statistics",
     "stem/moving_variance:0 does not move in training"),
    ("nan_weights", "fine_tuning", "the loss is not finite"),
    ("drifting_replicas", "mirrored", "replicas drift apart"),
])
def test_fault(made, fault, name, message):
  result = CHECKS[name](made(fault=fault))
  assert result.status == "failed"
  assert message in result.message


class TestMixedPrecision:
  """The check on models that are off by known amounts."""

  def _result(self, made, off, dtypes=("float32", "bfloat16", "float16")):
    """Returns what comes of a model that adds `off[dtype]` to its outputs."""
    subject = made()
    subject.manifest = subject.manifest | {
        "inputs": subject.manifest["inputs"] | {"compute_dtypes": dtypes}}

    def model(images):
      outputs = tf.constant([[0.0, 3.0], [3.0, 0.0]])  # Of deviation 1.5.
      return outputs + 1.5 * off.get(images.dtype.name, 0.0)

    subject.model = model
    return trainability.mixed_precision(subject)

  def test_close(self, made):
    result = self._result(made, {"bfloat16": 0.09, "float16": 0.012})
    assert result.status == "passed", result.message
    assert result.figures == pytest.approx(
        {"bfloat16": 0.09, "float16": 0.012}, rel=1e-4)

  @pytest.mark.parametrize("dtype, off, limit", [
      ("bfloat16", 0.11, "1.0e-01"), ("float16", 0.02, "1.3e-02"),
      ("bfloat16", float("nan"), "1.0e-01")])
  def test_far(self, made, dtype, off, limit):
    result = self._result(made, {dtype: off})
    assert result.status == "failed"
    assert result.message.startswith(f"{dtype} is off float32 by")
    assert f"expected at most {limit}" in result.message

  def test_noise_of_float32_counts(self, made, monkeypatch):
    monkeypatch.setattr(numerics, "golden_noise", lambda subject: 2.0**-18)
    assert self._result(made, {"bfloat16": 0.24}).status == "passed"
    assert self._result(made, {"bfloat16": 0.26}).status == "failed"

  def test_overflow_of_float16_is_told(self, made):
    result = self._result(made, {"float16": float("inf")})
    assert result.status == "passed"
    assert result.figures["float16"] == -1
    assert "float16 ends before" in result.message

  def test_export_in_float32_alone(self, made):
    result = self._result(made, {"bfloat16": 9.0}, ("float32",))
    assert (result.status, result.figures) == ("passed", {})


class TestEndpoints:

  def test_sound(self, made):
    result = trainability.endpoints(made("feature_extractor"))
    assert result.status == "passed", result.message

  def test_wrong_in_training_only(self, made):
    subject = made("feature_extractor", "zero_stages_in_training")
    assert numerics.feature_vector(subject).status == "passed"
    result = trainability.endpoints(subject)
    assert result.status == "failed"
    assert "stage1 is the same everywhere" in result.message


class TestSaveAndReload:

  def test_after_fine_tuning(self, made):
    subject = made()
    trainability.fine_tuning(subject)
    result = trainability.save_and_reload(subject)
    assert result.status == "passed", result.message

  def test_without_fine_tuning(self, made):
    assert trainability.save_and_reload(made()).status == "not_run"

  def test_reloaded_weights_are_compared(self, made, monkeypatch):
    subject = made()
    trainability.fine_tuning(subject)
    load = trainability.tf_keras.models.load_model

    def spoilt(*args, **kwargs):
      model = load(*args, **kwargs)
      model.layers[-1].kernel.assign_add(
          0.01 * model.layers[-1].kernel)
      return model

    monkeypatch.setattr(trainability.tf_keras.models, "load_model", spoilt)
    result = trainability.save_and_reload(subject)
    assert result.status == "failed"
    assert "from h5, predictions differ" in result.message


class TestUnfitReason:

  def test_main_form_without_onednn(self, made, monkeypatch):
    subject = made()
    monkeypatch.setattr(trainability, "has_onednn", lambda: False)
    assert trainability.unfit_reason(subject) is None
    subject.manifest["form"] = "main"
    assert "--form=portable" in trainability.unfit_reason(subject)

  def test_one_gpu_makes_no_two_replicas(self, made, monkeypatch):
    subject = made()
    subject.manifest["form"] = "main"
    monkeypatch.setattr(trainability, "has_onednn", lambda: False)
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu])
    assert trainability.unfit_reason(subject) is None
    result = trainability.mirrored(subject)
    assert result.status == "not_run"
    assert "two GPUs" in result.message
