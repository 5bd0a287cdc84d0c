"""Who takes part: our forms, and what users would pick instead. Plain data."""

import dataclasses
from collections.abc import Mapping, Sequence

from hub_export import errors

# What installs packages: a program, and its flags.
_MADE, _TORCH = ("//benchmarks:peers",), ("//benchmarks:peers", "--torch")


@dataclasses.dataclass(frozen=True)
class Form:
  """A form of export, and how it is asked for."""
  flags: tuple[str, ...]            # Of //hub_export:export.
  manifest: Mapping[str, str]       # What its manifest says.
  file: str = ""                    # Within the export; "" for all of it.
  packages: tuple[str, ...] = ()    # Python modules that the exporter needs
                                    # beyond its usual ones.
  is_calibrated: bool = False       # Whether it is exported with images.


@dataclasses.dataclass(frozen=True)
class Contestant:
  """One model in one runtime."""
  name: str
  runtime: str              # A module of benchmarks.runtimes.
  what: str                 # What it opens; see `preparation.Prepared.task`.
  precision: str            # "float32" or "bf16": how the runtime computes.
  convention: str           # Whose padding its network has: "keras", "torch",
                            # or "export" for that of our export.
  packages: tuple[str, ...]  # Python modules that it needs.
  tolerance: float          # Of its outputs, in standard deviations of them.
  form: Form | None = None  # Of ours.
  install: tuple[str, ...] = ()  # What installs them: a target, its flags.

  @property
  def is_ours(self) -> bool:
    return self.form is not None

  @property
  def group(self) -> str:
    """Whom it is shown with: our form's name, or "peers"."""
    return self.form.manifest["form"] if self.form else "peers"


# Two float32 programs differ by some 1e-5; a wrong padding by over 1e-2. Eight
# bits of bfloat16's mantissa leave 0.4 % per product. int8 only has to be the
# same network (unrelated outputs differ by 1.4): what it loses is measured by
# //checks:check.
_FLOAT, _HALF, _BF16, _INT8 = 1e-3, 2e-2, 0.2, 0.7

_MAIN = Form(("--form=main",), {"form": "main"})
_PORTABLE = Form(("--form=portable",), {"form": "portable"})
_ONNX = Form(("--form=onnx",), {"form": "onnx"}, "model.onnx",
             ("tensorflow", "onnx", "onnxruntime", "tf2onnx"))


def _serving(precision: str) -> Form:
  return Form(("--form=serving", f"--precision={precision}"),
              {"form": "serving", "precision": precision})


def _lite(quantization: str) -> Form:
  return Form(("--form=lite", f"--quantization={quantization}"),
              {"form": "lite", "quantization": quantization}, "model.tflite",
              is_calibrated=quantization == "int8")


_TF, _KERAS = ("tensorflow",), ("tensorflow", "tf_keras")
_HUB = ("tensorflow", "tf_keras", "tensorflow_hub")
_LITERT, _TIMM = ("ai_edge_litert",), ("torch", "timm")
_ORT, _OPENVINO = ("onnxruntime",), ("openvino",)

INFERENCE = (
    Contestant("main", "tensorflow_runtime", "saved_model", "float32",
               "export", _TF, _FLOAT, _MAIN),
    Contestant("portable", "tensorflow_runtime", "saved_model", "float32",
               "export", _TF, _FLOAT, _PORTABLE),
    Contestant("serving_float32", "tensorflow_runtime", "saved_model",
               "float32", "export", _TF, _FLOAT, _serving("float32")),
    Contestant("serving_bf16", "tensorflow_runtime", "saved_model", "bf16",
               "export", _TF, _BF16, _serving("bf16")),
    Contestant("lite_float32", "litert_runtime", "tflite", "float32",
               "export", _LITERT, _FLOAT, _lite("float32"), _MADE),
    Contestant("lite_fp16", "litert_runtime", "tflite", "float32",
               "export", _LITERT, _HALF, _lite("fp16"), _MADE),
    Contestant("lite_dynamic", "litert_runtime", "tflite", "float32",
               "export", _LITERT, _INT8, _lite("dynamic"), _MADE),
    Contestant("lite_int8", "litert_runtime", "tflite", "float32",
               "export", _LITERT, _INT8, _lite("int8"), _MADE),
    Contestant("onnx", "onnx_runtime", "onnx_form", "float32", "export",
               _ORT, _FLOAT, _ONNX, _MADE),
    Contestant("tf_keras", "tensorflow_runtime", "keras", "float32", "keras",
               _KERAS, _FLOAT),
    Contestant("tf_keras_saved_model", "tensorflow_runtime",
               "keras_saved_model", "float32", "keras", _TF, _FLOAT),
    Contestant("timm", "torch_runtime", "timm", "float32", "torch", _TIMM,
               _FLOAT, None, _TORCH),
    Contestant("onnxruntime", "onnx_runtime", "onnx", "float32", "export",
               _ORT, _FLOAT, None, _MADE),
    Contestant("openvino_float32", "openvino_runtime", "onnx", "float32",
               "export", _OPENVINO, _FLOAT, None, _MADE),
    Contestant("openvino_bf16", "openvino_runtime", "onnx", "bf16", "export",
               _OPENVINO, _BF16, None, _MADE),
)

# Tolerances are of the first step's loss, relative: it is a mean over few
# images of what batch norm makes of their own statistics.
TRAINING = (
    Contestant("main", "tensorflow_runtime", "saved_model", "float32",
               "export", _TF, 1e-3, _MAIN),
    Contestant("main_bf16", "tensorflow_runtime", "saved_model", "bf16",
               "export", _TF, 0.05, _MAIN),
    Contestant("keras_layer", "tensorflow_runtime", "keras_layer", "float32",
               "export", _HUB, 1e-3, _MAIN),
    Contestant("keras_layer_bf16", "tensorflow_runtime", "keras_layer",
               "bf16", "export", _HUB, 0.05, _MAIN),
    Contestant("portable", "tensorflow_runtime", "saved_model", "float32",
               "export", _TF, 1e-3, _PORTABLE),
    Contestant("tf_keras", "tensorflow_runtime", "keras", "float32", "keras",
               _KERAS, 1e-3),
    Contestant("timm", "torch_runtime", "timm", "float32", "torch", _TIMM,
               1e-3, None, _TORCH),
    Contestant("timm_bf16", "torch_runtime", "timm", "bf16", "torch", _TIMM,
               0.05, None, _TORCH),
)


def chosen(table: Sequence[Contestant], names: Sequence[str]
           ) -> tuple[Contestant, ...]:
  """Returns the contestants of these names, in the table's order; all if none.

  Raises:
    UsageError: if there is none of a name.
  """
  known = [c.name for c in table]
  unknown = sorted(set(names) - set(known))
  if unknown:
    raise errors.UsageError(
        f"--contestants: nobody is called {', '.join(unknown)}; expected some "
        f"of {', '.join(known)}. Leave the flag out for all.")
  return tuple(c for c in table if not names or c.name in names)
