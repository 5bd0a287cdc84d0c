"""What a model family hands over to be written: HubModule and Inference.

A HubModule is written as it is. From an Inference, a network without variables,
`hub_export.forms` makes the other forms, each a Payload that is written alike.
Nothing that takes any of them knows what kind of network is inside.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from hub_export import preprocessing

Tensors = Mapping[str, np.ndarray]  # Canonical name -> float32 array.
Signatures = Mapping[str, tf.types.experimental.ConcreteFunction]  # By name.


class ReusableModule(tf.Module):
  """Root of a reusable SavedModel (TensorFlow Hub's interface).

  A subclass has `__call__`, a tf.function whose first argument is the images,
  and sets these three. tf.Module's own `variables` are properties, which a
  SavedModel does not keep: KerasLayer would find no weights. Class attributes
  in their place let plain lists be set, which are saved.
  """
  variables = None             # list of tf.Variable
  trainable_variables = None   # list of tf.Variable, a part of `variables`
  regularization_losses = None  # list of tf.function without arguments


@dataclasses.dataclass(frozen=True)
class HubModule:
  """One module ready to be written."""
  name: str                  # "regnety600mf_classification".
  root: ReusableModule
  signatures: Signatures
  labels: tuple[str, ...]    # Class names in the order of the logits; or ().
  manifest: Mapping[str, Any]  # JSON; all but handle, labels and software.
  golden_images: np.ndarray    # float32 [batch, height, width, 3] in [0, 1].
  golden_outputs: np.ndarray   # What it has to make of them, float32: computed
                               # from the checkpoint by other code than the
                               # root's, or its faults would go unnoticed.
  golden_noise: float = 0.0    # What they differ by if they are computed in
                               # float32, at most, in their standard deviations.


@dataclasses.dataclass(frozen=True)
class Build:
  """How a network for inference is put together."""
  dtype: str = "float32"      # Of weights and sums: or "bfloat16".
  groups: str = "native"      # Grouped convolutions: or "split", one plain
                              # convolution per group between split and concat.
  keeps_images: bool = False  # Whether all between the images and the pooled
                              # features has four dimensions, and dense layers
                              # are 1x1 convolutions; else matrix products.
  # Whether to tell Grappler that the two summands of a block have one shape,
  # which it cannot see where heights and widths are not known. TensorFlow with
  # oneDNN (2.21) then makes one operation of convolution, bias, sum and
  # activation. It costs operations that compute nothing, and shapes that are
  # computed when it runs.
  ties_shapes: bool = False


# Before the names of a network's constants in the graphs that it is traced in.
WEIGHTS_SCOPE = "weights/"


class Network(Protocol):
  """A network for inference, whose weights are constants where it is traced."""
  num_bytes: int  # Of all constants.

  def constants(self, head: bool) -> Tensors:
    """Returns what the graphs hold, by name: "stem/kernel", for instance.

    In the graphs, WEIGHTS_SCOPE comes before the names. In the shapes and types
    of the graphs, which have no other floating-point constants; groups that are
    split have parts of these.

    Args:
      head: Whether with those of `logits`; else those of `features` alone.
    """

  def features(self, images: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, feature_dim].

    Args:
      images: float32 [batch, height, width, 3], RGB in [0, 1].
    """

  def logits(self, features: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, classes] for float32 [batch, feature_dim]."""


@dataclasses.dataclass(frozen=True)
class Inference:
  """One module for inference, of which forms without variables are made."""
  name: str                  # Of the main form.
  kind: str                  # "classifier" or "feature_extractor".
  network: Callable[[Build], Network]  # Built when it is asked for.
  preprocessing: preprocessing.Preprocessing
  labels: tuple[str, ...]    # As those of HubModule, all that follow.
  manifest: Mapping[str, Any]  # Of the main form.
  golden_images: np.ndarray
  golden_outputs: np.ndarray
  golden_noise: float

  @property
  def output(self) -> str:
    """What its output is called."""
    return "logits" if self.kind == "classifier" else "features"


@dataclasses.dataclass(frozen=True)
class Payload:
  """One module ready to be written, that need not be a SavedModel."""
  name: str                  # "regnety600mf_classification_serving_bf16".
  # Writes the model's files into the directory, which is there and empty;
  # labels, manifest and golden outputs are written afterwards.
  write: Callable[[pathlib.Path], None]
  num_bytes: int             # What that takes on the disk, about.
  labels: tuple[str, ...]    # As those of HubModule, all that follow.
  manifest: Mapping[str, Any]
  golden_images: np.ndarray
  golden_outputs: np.ndarray
  golden_noise: float = 0.0
  # Versions of what made the files, beside TensorFlow and NumPy.
  software: Mapping[str, str] = dataclasses.field(default_factory=dict)
