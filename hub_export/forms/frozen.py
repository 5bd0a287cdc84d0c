"""A module for inference as one function of constants, for converters."""

import json
from typing import Any

import tensorflow as tf

from hub_export import errors
from hub_export import hub_module

# No protocol buffer may be larger than 2 GiB. An ONNX file is one, and so is a
# graph that converters take constants from.
_MOST_BYTES = (2 << 30) - (16 << 20)
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")


def check_size(network: hub_module.Network) -> None:
  """Raises HubExportError if the weights do not fit into one graph."""
  if network.num_bytes > _MOST_BYTES:
    raise errors.HubExportError(
        f"the weights have {network.num_bytes:,} bytes, and a graph can hold "
        f"{_MOST_BYTES:,}; expected a smaller network. Use the main form.")


def function(inference: hub_module.Inference, network: hub_module.Network
             ) -> tf.types.experimental.ConcreteFunction:
  """Returns images -> {"logits"} or {"features"}; it calls no other function.

  Args:
    inference: The module.
    network: Its network, built as the converter wants it.
  """
  @tf.function(input_signature=[_IMAGES], autograph=False)
  def run(images):
    outputs = network.features(images)
    if inference.kind == "classifier":
      outputs = network.logits(outputs)
    return {inference.output: outputs}

  return run.get_concrete_function()


def payload(inference: hub_module.Inference, name: str,
            manifest: dict[str, Any], num_bytes: int, write,
            software: dict[str, str]) -> hub_module.Payload:
  """Returns the payload of a module whose files `write` writes."""
  return hub_module.Payload(
      name=name, write=write, num_bytes=num_bytes, labels=inference.labels,
      manifest=manifest, golden_images=inference.golden_images,
      golden_outputs=inference.golden_outputs,
      golden_noise=inference.golden_noise, software=software)


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
