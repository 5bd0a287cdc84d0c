"""Code to copy from a model's page: each piece runs as it stands."""

from collections.abc import Sequence
from typing import Protocol

from hub_export.site import models as models_lib

_OUTPUTS = {"classifier": "logits", "feature_extractor": "features"}


class _File(Protocol):
  name: str
  sha256: str


def for_model(model: models_lib.Model, load_url: str, url: str,
              files: Sequence[_File]) -> list[tuple[str, str, str]]:
  """Returns (title, language, code) of each way to use a model.

  Args:
    model: The model.
    load_url: What hub.load takes.
    url: The model's address, to which ".tar.gz" and the like are added.
    files: What is published beside it.
  """
  output = _OUTPUTS.get(model.kind, "outputs")
  if model.kind == "feature_extractor":
    network = "[\n    layer,\n    tf_keras.layers.Dense(num_classes)]"
    unknown = "num_classes = 10  # Yours.\n"
  else:
    network, unknown = "[layer]", ""
  return [
      ("Call it", "python",
       "import tensorflow_hub as hub\n\n"
       f'module = hub.load("{load_url}")\n'
       f"{output} = module(images)  "
       "# float32 [batch, height, width, 3], RGB in [0, 1]\n"),
      ("Fine-tune it with tf_keras", "python",
       "import tensorflow_hub as hub\nimport tf_keras\n\n"
       f'{unknown}layer = hub.KerasLayer(\n    "{load_url}",\n'
       "    trainable=True)\n"
       f"model = tf_keras.Sequential({network})\n"
       "model.build([None, None, None, 3])\n"),
      ("Use it in Keras 3", "python",
       "import keras\nimport tensorflow_hub as hub\n\n"
       f'path = hub.resolve("{load_url}")\n'
       "layer = keras.layers.TFSMLayer(\n"
       '    path, call_endpoint="serving_default")\n'
       f'{output} = layer(images)["{output}"]\n'),
      ("Download and verify it", "sh", _download(url, files)),
  ]


def _download(url: str, files: Sequence[_File]) -> str:
  """Returns commands that end with an error unless the bytes are right."""
  version = url.rpartition("/")[2]
  names = {file.name: file for file in files}
  archive = f"{version}.tar.gz"
  lines = [f"curl -fO {url}.tar.gz"]
  if f"{version}.SHA256SUMS" in names:
    lines += [f"curl -fO {url}.SHA256SUMS",
              f"sha256sum --check --ignore-missing {version}.SHA256SUMS"]
  elif archive in names:
    lines += [f'echo "{names[archive].sha256}  {archive}" | sha256sum --check']
  if f"{version}.sig" in names:
    handle = "/".join(url.rsplit("/", 3)[1:])
    lines += ["./bazelw run //checks:verify -- --public_key=public.pem \\",
              f"  --archive={url}.tar.gz --handle={handle}"]
  return "\n".join(lines) + "\n"
