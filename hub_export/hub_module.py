"""What a model family hands over to be written: the HubModule record.

Nothing that takes a HubModule knows what kind of network is inside.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf


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
  signatures: Mapping[str, tf.types.experimental.ConcreteFunction]
  labels: tuple[str, ...]    # Class names in the order of the logits; or ().
  manifest: Mapping[str, Any]  # JSON; all but handle, labels and software.
  golden_images: np.ndarray    # float32 [batch, height, width, 3] in [0, 1].
  golden_outputs: np.ndarray   # What it has to make of them, float32: computed
                               # from the checkpoint by other code than the
                               # root's, or its faults would go unnoticed.
  golden_noise: float = 0.0    # What they differ by if they are computed in
                               # float32, at most, in their standard deviations.
