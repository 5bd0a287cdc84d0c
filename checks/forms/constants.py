"""Constants of a form without variables that the checks ask for."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Constant:
  """What of a tf.Variable the checks use."""
  name: str
  value: np.ndarray

  def numpy(self) -> np.ndarray:
    return self.value


def head(kernel: np.ndarray, bias: np.ndarray) -> list[Constant]:
  """Returns a classifier's last layer under the names that subject.head wants.

  Args:
    kernel: float32 [feature_dim, classes].
    bias: float32 [classes].
  """
  return [Constant("head/kernel", kernel), Constant("head/bias", bias)]
