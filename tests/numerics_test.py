"""Tests of the numerics checks on sound exports and on planted faults."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from checks import numerics
from checks import subject as subject_lib
from tests import tiny_saved_model
from tests import tiny_subject

CHECKS = {f.__name__: f for f in (
    numerics.golden, numerics.batch_sizes, numerics.image_sizes,
    numerics.repeatable, numerics.image_bytes, numerics.feature_vector)}


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
    ("tampered_golden", "golden", "2 golden outputs differ by 1.0e-02"),
    ("bgr", "golden", "2 golden outputs differ by"),
    ("nan_weights", "golden", "2 golden outputs differ by inf"),
    ("nan_weights", "image_sizes", "32 x 32: outputs that are not finite"),
    ("image_bytes_scale", "image_bytes", "differ by"),
    ("label_names", "image_bytes", "labels are not those of the classes"),
    ("constant", "repeatable", "unlike images give the same outputs"),
    ("batch_mean", "batch_sizes", "batches of 1, 3 and 8 differ by"),
])
def test_fault(made, fault, name, message):
  result = CHECKS[name](made(fault=fault))
  assert result.status == "failed"
  assert message in result.message


# What a subject whose form is not rounded has.
_EXACT = {"tolerance": subject_lib.TOLERANCE,
          "difference": subject_lib.difference}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def _golden(directory, change=lambda images: images, off=0.0, noise=None):
  """Returns the golden check's result on a model that changes its images.

  Args:
    directory: Where the golden outputs are put.
    change: What the model does to images before all else.
    off: What its outputs are off, in standard deviations.
    noise: What is written beside the golden outputs; None for nothing.
  """
  rng = np.random.default_rng(0)
  images = subject_lib.probe_images(2, 12, 10)
  weights = rng.normal(size=(12 * 10 * 3, 7)).astype(np.float32)
  run = lambda x: np.float32(np.reshape(x, (2, -1)) @ weights)
  outputs = run(images)
  path = directory / "assets.extra" / "golden.npz"
  path.parent.mkdir()
  np.savez(path, images=images, outputs=outputs,
           **({} if noise is None else {"noise": noise}))
  shift = np.float32(off * outputs.std())
  model = lambda x: tf.constant(run(change(x.numpy())) + shift)
  return numerics.golden(types.SimpleNamespace(
      **_EXACT, export_dir=directory, model=model, output="logits",
      preprocessing=types.SimpleNamespace(mean=MEAN, std=STD),
      signature=lambda name: lambda images: {"logits": model(images)}))


@pytest.mark.parametrize("change, cause", [
    (lambda x: x[..., ::-1], "their channels are reversed"),
    (lambda x: x[:, :, ::-1], "they are mirrored"),
    (lambda x: x[:, ::-1], "they are turned upside down"),
    (lambda x: 2 * x - 1, "they are brought from [-1, 1] to [0, 1]"),
    (lambda x: 255 * x, "they are brought from [0, 255] to [0, 1]"),
    (lambda x: x * STD + np.float32(MEAN), "mean and std are applied to them"),
    (lambda x: (x - MEAN) / STD, "mean and std are taken back from them"),
    (lambda x: x ** 2, "No change of the images explains it"),
])
def test_golden_tells_the_cause(tmp_path, change, cause):
  result = _golden(tmp_path, change)
  assert result.status == "failed"
  assert cause in result.message


@pytest.mark.parametrize("off, noise, status", [
    (8e-5, None, "passed"), (2e-4, None, "failed"),
    (2e-4, 1e-6, "failed"),  # No less than the usual is asked for.
    (8e-4, 1e-4, "passed"), (2e-3, 1e-4, "failed"),
    (8e-3, 1.0, "passed"), (2e-2, 1.0, "failed"),
    (2e-4, np.nan, "failed"),
])
def test_golden_lets_float32_be_what_it_is(tmp_path, off, noise, status):
  assert _golden(tmp_path, off=off, noise=noise).status == status


@pytest.mark.parametrize("company, status", [(0, "passed"), (1e-3, "failed")])
def test_batch_sizes_of_a_single_class(company, status):
  """One image's only logit has no spread of its own to measure by."""
  def signature(images):
    # float32 sums in another order, as it comes with another batch size.
    rounding = 1e-7 * images.shape[0]
    means = tf.reduce_mean(images, [1, 2, 3], keepdims=True)[:, 0, 0]
    return {"logits": means * (1 + rounding) + company * images.shape[0]}

  subject = types.SimpleNamespace(
      **_EXACT, preprocessing=types.SimpleNamespace(crop_px=8), output="logits",
      signature=lambda name: signature)
  assert numerics.batch_sizes(subject).status == status


def test_feature_extractor_whose_image_bytes_differ(made):
  result = numerics.image_bytes(made("feature_extractor", "image_bytes_scale"))
  assert result.status == "failed"


def _scans(count):
  """Returns file names and PNG files of digits-like scans, all unlike."""
  names, files = [], []
  for i in range(count):
    pixels = subject_lib.probe_images(1, 8 + i, 11, seed=i)[0] * 255
    files.append(tf.io.encode_png(pixels.round().astype(np.uint8)).numpy())
    names.append(f"scan{i}.png")
  return names, files


class TestSamples:

  @pytest.mark.parametrize("kind", ["classifier", "feature_extractor"])
  def test_sound(self, made, kind):
    result = numerics.samples(made(kind), *_scans(5))
    assert result.status == "passed", result.message
    assert "5 examples, such as scan0.png" in result.message
    assert result.figures["images"] == 5
    assert 0 <= result.figures["largest_difference"] < 1e-4

  @pytest.mark.parametrize("kind, message", [
      ("classifier", "the highest probabilities differ by"),
      ("feature_extractor", "5 examples, such as scan0.png differ by")])
  def test_scaled_images(self, made, kind, message):
    result = numerics.samples(made(kind, "image_bytes_scale"), *_scans(5))
    assert result.status == "failed"
    assert message in result.message
    assert result.figures["largest_difference"] > 1e-4

  # What image_bytes does is right; what is stated of it, is not.
  def test_other_preprocessing_in_the_manifest(self, made, monkeypatch):
    subject = made()
    record = json.loads(json.dumps(subject.manifest["preprocessing"]))
    record["resizes"][0]["interpolation"] = "bicubic"
    monkeypatch.setitem(subject.manifest, "preprocessing", record)
    assert numerics.samples(subject, *_scans(5)).status == "failed"

  def test_names_the_one_that_differs(self, made):
    """The export's image_bytes, given one image upside down."""
    subject = made()
    names, files = _scans(5)
    signature = subject.signature("image_bytes")
    turned = tf.io.encode_png(tf.reverse(tf.io.decode_png(files[3]), [0]))
    def other(image_bytes):
      return signature(image_bytes=tf.tensor_scatter_nd_update(
          image_bytes, [[3]], [turned]))
    replaced = types.SimpleNamespace(
        **_EXACT, preprocessing=subject.preprocessing, labels=subject.labels,
        is_classifier=True, output="logits", output_size=subject.output_size,
        signature=lambda name: other if name == "image_bytes"
        else subject.signature(name))
    result = numerics.samples(replaced, names, files)
    assert result.status == "failed"
    assert "most for scan3.png" in result.message

  def test_damaged_sample(self, made):
    names, files = _scans(3)
    result = numerics.samples(made(), names, [*files[:2], files[2][:40]])
    assert result.status == "failed"
    assert result.message.startswith("scan2.png cannot be decoded")

  def test_none(self, made):
    assert numerics.samples(made(), [], []).status == "not_run"


def test_features_of_another_layer(made, monkeypatch):
  kernel, bias = subject_lib.head(made().model)
  monkeypatch.setattr(subject_lib, "head",
                      lambda model: (kernel[::-1], bias))
  assert numerics.feature_vector(made()).status == "failed"


def test_endpoint_of_other_depth(made):
  subject = made("feature_extractor")
  subject.manifest["outputs"]["endpoints"]["stage1"] = 7
  result = numerics.feature_vector(subject)
  assert "4 images and 7 channels" in result.message


def test_zero_endpoints(made):
  result = numerics.feature_vector(made("feature_extractor", "zero_stages"))
  assert "stage1 is the same everywhere" in result.message
  assert "means of the last endpoint differ" in result.message


def test_endpoints_that_do_not_shrink(made):
  subject = made("feature_extractor")
  model = subject.model
  def grown(images, **options):
    found = model(images, **options)
    if options.get("return_endpoints"):
      found = dict(found, stage2=tf.repeat(found["stage2"], 8, axis=1))
    return found
  images = subject_lib.probe_images(2, 32, 32)
  assert numerics.endpoint_problems(subject, model, images, False) == []
  assert numerics.endpoint_problems(subject, grown, images, False) == [
      "stage2 is 16 x 2; expected less than the 16 x 16 before it"]


class TestDifference:

  def test_in_standard_deviations(self):
    # Standard deviation of 0 and 2 is 1; off by 0.5.
    assert subject_lib.difference([0.0, 2.5], [0.0, 2.0]) == 0.5

  @pytest.mark.parametrize("found", [
      [np.nan, 0.0], [np.inf, 0.0], [0.0], [[0.0, 2.0]]])
  def test_never_small_for_broken_values(self, found):
    assert subject_lib.difference(found, [0.0, 2.0]) == np.inf


class TestProbeImages:

  def test_tell_mistakes_apart(self):
    images = subject_lib.probe_images(3, 32, 48)
    assert images.shape == (3, 32, 48, 3)
    assert 0 <= images.min() and images.max() <= 1
    for other in (images[..., ::-1], images[:, :, ::-1], images[:, ::-1],
                  images[::-1]):
      assert np.abs(images - other).mean() > 0.05
