"""What the forms without variables have in common.

Most are converted from the module for inference as one function of constants.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata as package_metadata
from typing import Any

import numpy as np
import tensorflow as tf

from hub_export import errors
from hub_export import hub_module

# No protocol buffer may be larger than 2 GiB. An ONNX file is one, and so is a
# graph, with its constants. A .tflite file counts in 31 bits as well.
_MOST_BYTES = (2 << 30) - (16 << 20)
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")


def check_size(network: hub_module.Network, name: str,
               advice: str = "Export the main form.") -> None:
  """Raises HubExportError if the weights do not fit into one graph.

  Args:
    network: What is to be traced.
    name: The module's.
    advice: What to do, a sentence.
  """
  if network.num_bytes > _MOST_BYTES:
    raise errors.HubExportError(
        f"{name}: the weights have {network.num_bytes:,} bytes, and a graph "
        f"can hold {_MOST_BYTES:,}; expected a smaller network. {advice}")


def function(inference: hub_module.Inference, network: hub_module.Network
             ) -> tf.types.experimental.ConcreteFunction:
  """Returns images -> {"logits"} or {"features"}; it calls no other function.

  Args:
    inference: The module.
    network: Its network, built as the converter wants it.
  """
  @tf.function(input_signature=[_IMAGES], autograph=False)
  def run(images):
    return {inference.output: outputs(inference, network, images)}

  return run.get_concrete_function()


def outputs(inference: hub_module.Inference, network: hub_module.Network,
            images: tf.Tensor) -> tf.Tensor:
  """Returns logits or features, whichever the module gives."""
  features = network.features(images)
  return (network.logits(features) if inference.kind == "classifier"
          else features)


def payload(inference: hub_module.Inference, name: str,
            manifest: dict[str, Any], num_bytes: int,
            write: Callable[[pathlib.Path], None],
            packages: Sequence[str] = ()) -> hub_module.Payload:
  """Returns the payload of a module whose files `write` writes.

  Args:
    inference: The module.
    name: What it is called in this form.
    manifest: Of this form.
    num_bytes: See hub_module.Payload.
    write: See hub_module.Payload.
    packages: What made the files, beside TensorFlow and NumPy.
  """
  return hub_module.Payload(
      name=name, write=write, num_bytes=num_bytes, labels=inference.labels,
      manifest=manifest, golden_images=inference.golden_images,
      golden_outputs=inference.golden_outputs,
      golden_noise=inference.golden_noise,
      software={p: package_metadata.version(p) for p in packages})


def weights_record(constants: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns "constants", how many there are, and "sha256" of all.

  The SHA-256 goes over the constants in the order of their names. Of each it
  takes a line "<name> <dtype> <shape>", the shape as Python writes a tuple, and
  the values: little-endian, C order.

  Args:
    constants: By the names that hub_module.Network.constants gives them.
  """
  digest = hashlib.sha256()
  for name in sorted(constants):
    value = constants[name]
    digest.update(f"{name} {value.dtype.name} {value.shape}\n".encode())
    digest.update(value.tobytes())
  return {"constants": len(constants), "sha256": digest.hexdigest()}


def metadata(inference: hub_module.Inference, name: str,
             manifest: dict[str, Any]) -> dict[str, str]:
  """Returns what a file that is copied elsewhere should still say of itself.

  Returns:
    Strings: "name", "variant", "kind"; "labels", one a line; "input" for
    people; "preprocessing", JSON; "weights_sha256"; "licence".
  """
  size = manifest["inputs"]["min_size_px"]
  found = {
      "name": name, "variant": manifest["variant"], "kind": manifest["kind"],
      "input": "images: float32 [batch, height, width, 3], RGB in [0, 1], "
               f"sides from {size} pixels up; normalisation is inside",
      "preprocessing": json.dumps(manifest["preprocessing"], sort_keys=True),
      "weights_sha256": manifest["weights"]["sha256"],
      "licence": manifest["licence"]["id"] or "",
  }
  if inference.labels:
    found["labels"] = "\n".join(inference.labels)
  return found
