"""A module for inference as one function of constants, for converters."""

import json
from typing import Any

import tensorflow as tf

from hub_export import hub_module

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")


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
