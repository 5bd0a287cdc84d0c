"""Code to copy from a model's page: each piece runs as it stands."""

from collections.abc import Sequence
from typing import Protocol

from hub_export import forms
from hub_export.site import models as models_lib

_OUTPUTS = {"classifier": "logits", "feature_extractor": "features"}

# What runs each form that is loaded by its files; {url} is that of the model.
_FILES = {
    "lite": ("python", """\
from ai_edge_litert import interpreter

lite = interpreter.Interpreter("model.tflite")
run = lite.get_signature_runner("serving_default")
{output} = run(images=images)["{output}"]
"""),
    "onnx": ("python", """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
{output}, = session.run(["{output}"], {{"images": images}})
"""),
    "tfjs": ("js", """\
const model = await tf.loadGraphModel("{url}");
const {output} = model.predict(images);
"""),
}


class _File(Protocol):
  name: str
  sha256: str


def for_model(model: models_lib.Model, load_url: str, url: str,
              files: Sequence[_File]) -> list[tuple[str, str, str]]:
  """Returns (title, language, code) of each way to use a model.

  Args:
    model: The model.
    load_url: What hub.load takes, or the file that is loaded.
    url: The model's address, to which ".tar.gz" and the like are added.
    files: What is published beside it.
  """
  output = _OUTPUTS.get(model.kind, "outputs")
  download = ("Download and verify it", "sh", _download(url, files))
  if model.form in _FILES:
    language, code = _FILES[model.form]
    found = [("Run it", language, code.format(url=load_url, output=output))]
    if language == "python":
      found.insert(0, ("Download the model", "sh", f"curl -fO {load_url}\n"))
    return [*found, download]
  call = (
      "Call it", "python",
      "import tensorflow_hub as hub\n\n"
      f'module = hub.load("{load_url}")\n'
      f"{output} = module(images)  "
      "# float32 [batch, height, width, 3], RGB in [0, 1]\n")
  keras = (
      "Use it in Keras 3", "python",
      "import keras\nimport tensorflow_hub as hub\n\n"
      f'path = hub.resolve("{load_url}")\n'
      "layer = keras.layers.TFSMLayer(\n"
      '    path, call_endpoint="serving_default")\n'
      f'{output} = layer(images)["{output}"]\n')
  if not forms.is_fine_tunable({"form": model.form}):
    return [call, keras, download]
  if model.kind == "feature_extractor":
    network = "[\n    layer,\n    tf_keras.layers.Dense(num_classes)]"
    unknown = "num_classes = 10  # Yours.\n"
  else:
    network, unknown = "[layer]", ""
  tune = (
      "Fine-tune it with tf_keras", "python",
      "import tensorflow_hub as hub\nimport tf_keras\n\n"
      f'{unknown}layer = hub.KerasLayer(\n    "{load_url}",\n'
      "    trainable=True)\n"
      f"model = tf_keras.Sequential({network})\n"
      "model.build([None, None, None, 3])\n")
  return [call, tune, keras, download]


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
