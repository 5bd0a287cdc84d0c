"""How an export of each form is loaded, the way its users load it."""

import pathlib
from collections.abc import Mapping
from typing import Any


def load(export_dir: pathlib.Path, manifest: Mapping[str, Any]) -> Any:
  """Returns an export as its users run it.

  Nothing is imported but what the form at hand needs.

  Args:
    export_dir: The directory of one version.
    manifest: Its manifest.

  Returns:
    What can be called with float32 images [batch, height, width, 3] for logits
    or features, and has `signatures`: name -> a function of keyword arguments
    that returns a dict of tensors. A classifier has its last layer in
    `variables`, or as a function `head` from features to logits.
  """
  # pylint: disable=g-import-not-at-top
  del manifest  # SavedModels tell by themselves what they are.
  import tensorflow_hub as hub
  return hub.load(str(export_dir))
