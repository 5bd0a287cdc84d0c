"""The export under test, loaded the way its users load it.

Checks share a Subject, so that an export is loaded and evaluated once.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from checks import evaluation_sets
from checks.forms import loading
from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export import preprocessing

# What a golden output may be off, and what two ways of computing the same may
# differ by, in standard deviations of the outputs: float32 summed in another
# order was seen to stay below a tenth of it.
TOLERANCE = 1e-4


class UnloadableError(errors.HubExportError):
  """The model cannot be loaded, for a reason that was told before."""


@dataclasses.dataclass
class Subject:
  """One export and how it is to be checked."""
  export_dir: pathlib.Path
  manifest: Mapping[str, Any]
  dataset: str                     # TFDS name.
  split: str
  data_dir: pathlib.Path | None    # TFDS' directory; None for the default.
  batch_size: int                  # Images per step of the evaluation.
  on_examples: Callable[[int, int, int], None] = (
      lambda done, total, correct: None)
  fresh: bool = False              # Whether to evaluate what is known anew.
  expect_top1: float | None = None  # In percent; see accuracy.expected_top1.
  tuned: Any = None                # The Keras model of the fine-tuning check.
  is_unloadable: bool = False      # Whether loading `model` has failed.

  @property
  def is_classifier(self) -> bool:
    return self.manifest["kind"] == "classifier"

  @property
  def output(self) -> str:
    """The name of the output of `serving_default`."""
    return "logits" if self.is_classifier else "features"

  @property
  def output_size(self) -> int:
    """The number of classes or of features."""
    outputs = self.manifest["outputs"]
    return outputs["num_classes" if self.is_classifier else "feature_dim"]

  @property
  def min_size_px(self) -> int:
    return self.manifest["inputs"]["min_size_px"]

  @functools.cached_property
  def preprocessing(self) -> preprocessing.Preprocessing:
    return preprocessing.from_dict(self.manifest["preprocessing"])

  @functools.cached_property
  def model(self) -> Any:
    """The export as users load it; for inference, so that it stays as it is.

    Raises:
      UnloadableError: if it could not be loaded before.
      Exception: of any kind, the first time that it cannot be loaded.
    """
    if self.is_unloadable:
      raise UnloadableError("the model cannot be loaded")
    try:
      return loading.load(self.export_dir, self.manifest)
    except Exception:
      self.is_unloadable = True
      raise

  @property
  def tolerance(self) -> float:
    """What `difference` may be at most."""
    loss = forms.loss(self.manifest)
    return loss.outputs if loss else TOLERANCE

  def difference(self, found: Any, expected: Any, scale: Any = None) -> float:
    """Returns how far outputs are off, in their standard deviations.

    The largest difference; of a form that rounds by intent, the root of the mean
    square: of thousands of roundings, the largest says little of the rest.

    Args:
      found: What came out.
      expected: What was to come out.
      scale: As of the function `difference`.
    """
    return difference(found, expected, scale,
                      is_mean=forms.loss(self.manifest) is not None)

  @functools.cached_property
  def labels(self) -> tuple[str, ...]:
    """The lines of assets/labels.txt."""
    path = self.export_dir / export_dirs.LABELS
    return tuple(path.read_text("utf-8").splitlines())

  def signature(self, name: str) -> Callable[..., Mapping[str, tf.Tensor]]:
    """Returns a signature's function.

    Raises:
      HubExportError: if the export has none of that name.
    """
    signatures = self.model.signatures
    if name not in signatures:
      raise errors.HubExportError(
          f"there is no signature {name!r}; expected it beside "
          f"{sorted(signatures)}")
    return signatures[name]

  @functools.cached_property
  def evaluation_set(self) -> evaluation_sets.EvaluationSet:
    return evaluation_sets.open(self.dataset, self.split, self.data_dir)


def head(model: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns a loaded classifier's last layer.

  Returns:
    float32 kernel [feature_dim, classes] and bias [classes].

  Raises:
    HubExportError: if it has neither variables of those names nor a `head`.
  """
  if hasattr(model, "head"):
    return _probed(model.head)
  found = {v.name.split(":")[0]: v for v in model.variables}
  try:
    return found["head/kernel"].numpy(), found["head/bias"].numpy()
  except KeyError as e:
    raise errors.HubExportError(
        f"the classifier has no variable {e}; expected its last layer to be "
        "called head/kernel and head/bias") from None


def _probed(layer: Callable[[tf.Tensor], tf.Tensor]
            ) -> tuple[np.ndarray, np.ndarray]:
  """Returns kernel and bias of a dense layer that is only to be called."""
  width = layer.input_signature[0].shape[1]
  bias = layer(tf.zeros([1, width])).numpy()[0]
  return layer(tf.eye(width)).numpy() - bias, bias


def probe_images(batch: int, height: int, width: int, seed: int = 0
                 ) -> np.ndarray:
  """Returns made-up images, unlike each other and in each channel.

  Waves of few cycles with noise on top, so that every part of a network has
  something to react to; neither mirrored nor swapped channels go unnoticed.

  Returns:
    float32 [batch, height, width, 3] in [0, 1].
  """
  rng = np.random.default_rng(seed)
  y = np.linspace(0, 1, height)[None, :, None, None]
  x = np.linspace(0, 1, width)[None, None, :, None]
  fy, fx = rng.uniform(0.5, 6, (2, batch, 1, 1, 3))
  phase = rng.uniform(0, 2 * np.pi, (batch, 1, 1, 3))
  level, contrast = rng.uniform(0.2, 0.8, (2, batch, 1, 1, 3))
  waves = level + contrast / 2 * np.sin(2 * np.pi * (fy * y + fx * x) + phase)
  noise = rng.normal(0, 0.08, (batch, height, width, 3))
  return np.clip(waves + noise, 0, 1).astype(np.float32)


def difference(found: Any, expected: Any, scale: Any = None,
               is_mean: bool = False) -> float:
  """Returns the largest difference in standard deviations of the outputs.

  Infinite if anything is not finite or the shapes differ.

  Args:
    found: What came out.
    expected: What was to come out.
    scale: The outputs whose standard deviation it is; by default `expected`.
      A lone number, as of one image and one class, has none of its own.
    is_mean: Whether to return the root of the mean square difference instead.
  """
  found, expected = np.asarray(found), np.asarray(expected)
  if (found.shape != expected.shape or not np.isfinite(found).all()
      or not np.isfinite(expected).all()):
    return float("inf")
  off = np.abs(found - expected)
  if is_mean and off.size:
    off = np.sqrt(np.mean(np.square(off)))
  largest = float(off.max(initial=0))
  spread = float(np.std(expected if scale is None else scale))
  return largest / max(spread, 1e-30) if largest else 0.0
