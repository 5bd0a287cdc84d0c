"""What is to be reached, as plain data, and whether it was.

A target that is not reached is told, and is no error: machines differ. All are
upper limits; where they come from stands in the issue "Fast on the machines
that people have".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Ratio:
  """At most this ratio of ours to theirs, in wall time."""
  ours: str
  theirs: str
  limits: Mapping[int, float]  # By batch size.


@dataclasses.dataclass(frozen=True)
class Verdict:
  """One target and what was found."""
  what: str
  limit: float
  found: float
  unit: str = ""

  @property
  def holds(self) -> bool:
    return self.found <= self.limit

  def __str__(self) -> str:
    return (f"at most {self.limit:g}{self.unit}: {self.found:.4g}{self.unit} "
            f"{'yes' if self.holds else 'NO'}")

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self) | {"holds": self.holds}


INFERENCE = (
    Ratio("main", "tf_keras", {1: 0.53, 8: 0.55, 32: 0.50}),
    Ratio("main", "onnxruntime", {1: 2.0, 8: 1.35, 32: 1.15}),
    Ratio("serving_float32", "onnxruntime", {8: 1.2, 32: 1.2}),
    Ratio("serving_bf16", "onnxruntime", {8: 0.6, 32: 0.45}),
    Ratio("lite_int8", "onnxruntime", {1: 0.6}),
)
TRAINING = (
    Ratio("main", "timm", {8: 0.8}),
    Ratio("main", "tf_keras", {8: 0.035}),
)

EXPORT_SECONDS = 8.0          # Both modules, after imports.
EXPORT_PEAK_BYTES = 1e9
HELP_SECONDS = 1.0
DISK_RATIO, DISK_BYTES = 1.03, 1.5e6   # Times the weights' bytes, plus these.
LOAD_RATIO, FIRST_CALL_RATIO = 1.0, 0.4  # To tf_keras' own export.
LOAD_SECONDS, FIRST_CALL_SECONDS = 1.0, 0.4
EXPONENT = 1.05               # Linear, as far as a fit through noise can tell.
