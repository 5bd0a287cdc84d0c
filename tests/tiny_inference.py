"""A small RegNet for inference, to be made into any form in a test.

Its golden outputs are the NumPy reference's, as an export's are.
"""

import functools

import numpy as np

from hub_export import hub_module
from hub_export import preprocessing
from hub_export.regnet import inference
from hub_export.regnet import network
from hub_export.regnet import reference
from hub_export.regnet import variants
from tests import tiny_export

LABELS = ("cat", "dog", "eel", "fox", "gnu", "hen", "ibis")
SIZE_PX = 32
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PREPROCESSING = preprocessing.Preprocessing(
    (preprocessing.Resize("squash", SIZE_PX, "bilinear", True),), SIZE_PX,
    MEAN, STD)
NAMES = {"classifier": "tiny_classification",
         "feature_extractor": "tiny_feature_extractor"}


def architecture(convention: str = "keras", has_se: bool = True
                 ) -> variants.Architecture:
  """Returns four stages of few channels; the second has two blocks."""
  return variants.Architecture("tiny", tuple(
      variants.Stage(depth, width, group_width, ((4 if has_se else 0),) * depth)
      for depth, width, group_width in (
          (1, 8, 8), (2, 16, 8), (1, 24, 8), (1, 24, 8))),
                               variants.convention(convention))


def tensors(arch: variants.Architecture, num_classes: int = len(LABELS),
            seed: int = 0) -> dict[str, np.ndarray]:
  """Returns weights and statistics that are unlike each other everywhere."""
  random = np.random.default_rng(seed)
  found = network.initial_tensors(arch, num_classes, seed)
  for name, value in found.items():
    if name.endswith(("/gamma", "/moving_variance")):
      found[name] = random.uniform(0.7, 1.4, value.shape).astype(np.float32)
    elif name.endswith(("/beta", "/moving_mean", "/bias")):
      found[name] = random.normal(0, 0.2, value.shape).astype(np.float32)
    elif name == "head/kernel":
      found[name] = random.normal(0, 0.3, value.shape).astype(np.float32)
  return found


def images(batch: int = 2, height: int = 39, width: int = 48, seed: int = 1
           ) -> np.ndarray:
  """Returns float32 noise in [0, 1] whose channels are unlike each other."""
  random = np.random.default_rng(seed)
  noise = random.random((batch, height, width, 3)) * [1.0, 0.7, 0.4]
  return noise.astype(np.float32)


def make(kind: str = "classifier", seed: int = 0) -> hub_module.Inference:
  """Returns a module for inference, and all that an export has of it."""
  arch = architecture()
  weights = tensors(arch, seed=seed)
  features, logits = reference.outputs(weights, "keras", MEAN, STD, images())
  is_classifier = kind == "classifier"
  manifest = tiny_export.manifest() | {
      "kind": kind, "companion": NAMES[
          "feature_extractor" if is_classifier else "classifier"],
      "outputs": {"num_classes": len(LABELS)} if is_classifier else {
          "feature_dim": arch.feature_dim, "endpoints": {"stage1": 8}},
      "inputs": tiny_export.manifest()["inputs"] | {
          "compute_dtypes": ["float32", "bfloat16", "float16"]},
      "preprocessing": PREPROCESSING.to_dict()}
  for key in ("handle", "labels", "software", "schema_version"):
    del manifest[key]  # The writer adds them.
  return hub_module.Inference(
      name=NAMES[kind], kind=kind,
      network=functools.cache(functools.partial(
          inference.Network, arch, weights, MEAN, STD)),
      preprocessing=PREPROCESSING, labels=LABELS if is_classifier else (),
      manifest=manifest, golden_images=images(),
      golden_outputs=(logits if is_classifier else features).astype(np.float32),
      golden_noise=2.0 ** -20)
