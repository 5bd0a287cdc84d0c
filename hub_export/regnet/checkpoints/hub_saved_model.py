"""Reads this project's own modules, as exported and as fine-tuned.

They are exported as SavedModels, fine-tuned in TensorFlow or through
hub.KerasLayer, and saved again in any way that tf_keras has:

 * a SavedModel directory, of the module itself or of a model around it, or a
   TensorFlow checkpoint: there the variables keep their canonical names in the
   object graph, whatever the keys;
 * .h5: the canonical names are those of the KerasLayer's weights;
 * .keras and .weights.h5: names are lost, but KerasLayer has its weights in the
   order of the module's trainable variables, then the others.

A single dense layer on a feature extractor becomes the head. SavedModels are
parsed, never loaded: loading one runs what is in it.
"""

import functools
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py

from hub_export import errors
from hub_export import export_dirs
from hub_export import forms
from hub_export.regnet.checkpoints import hdf5
from hub_export.regnet.checkpoints import hub_graph
from hub_export.regnet.checkpoints import keras3
from hub_export.regnet.checkpoints import layout
from hub_export.regnet.checkpoints import tf_checkpoint

DESCRIPTION = ("a module exported here, or a tf_keras model around one in any "
               "of Keras' formats")
_GRAPH = "saved_model.pb"
_VARIABLES = "variables/variables"
_MANIFEST = "assets.extra/manifest.json"
_MAX_MANIFEST_BYTES = 4 << 20
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_VALUE = "VARIABLE_VALUE"
_BATCH_NORM = r"bn/(?:gamma|beta|moving_mean|moving_variance)"
_NAME = re.compile(
    rf"stem/(?:conv|{_BATCH_NORM})|"
    r"stage\d{1,2}/block\d{1,3}/(?:"
    rf"(?:a|b|c|shortcut)/(?:conv|{_BATCH_NORM})|"
    r"se/(?:squeeze|excite)/(?:kernel|bias))|head/(?:kernel|bias)")
_LAST_CONV = re.compile(r"stage(\d{1,2})/block1/c/conv")
# Parts of keys below which only the training's variables are.
_TRAINING = frozenset((
    "optimizer", "_optimizer", ".OPTIMIZER_SLOT", "keras_api", "_variables",
    "_iterations", "_learning_rate", "save_counter"))
_LAYER = "keras_layer"  # tensorflow_hub's KerasLayer.

Named = Sequence[tuple[str, layout.StoredTensor]]


def recognises(path: pathlib.Path) -> bool:
  """Returns whether a path is of one of these forms; never raises."""
  try:
    if path.is_dir() and (path / _GRAPH).is_file():
      return True
    if tf_checkpoint.recognises(path):
      opened = tf_checkpoint.open_reader(path)
      return any(_NAME.fullmatch(name) for name, _ in _attributes(opened))
    if keras3.recognises(path):
      found = keras3.layers(keras3.opened(path, verify=False))
      return any(layer.kind == _LAYER for layer in found)
    if not _is_hdf5(path):
      return False
    with path.open("rb") as raw:
      hdf5.check_heaps(raw)
    with h5py.File(path, "r") as f:
      return any(_NAME.fullmatch(name) for name, _ in _listed(f))
  except Exception:  # pylint: disable=broad-except
    return False     # Whatever is wrong with it, another reader says so.


def check_form(path: pathlib.Path) -> None:
  """Raises CheckpointError if a path is an export without variables.

  Args:
    path: Such an export's directory, or the file in it that loads; anything
      else is another's.
  """
  export_dir = path.parent if path.name in forms.MARKERS else path
  if not (export_dir / _MANIFEST).is_file():
    return
  manifest = _manifest(export_dir / _MANIFEST)
  if forms.is_fine_tunable(manifest):
    return
  form = manifest["form"]
  try:
    handle = export_dirs.parse_handle(str(manifest.get("handle")))
    main = f" ({handle.publisher}/{handle.name.partition(f'_{form}')[0]})"
  except errors.HubExportError:
    main = ""
  raise errors.CheckpointError(
      f"{path} is a module in the form {form}, for inference alone: its weights "
      "are constants that batch norm went into, and no checkpoint can be had "
      "from them; expected a module in the main or portable form. Name the "
      f"main form of the same weights{main}, or the checkpoint that both were "
      "exported from.")


def read(path: pathlib.Path) -> layout.Layout:
  """Returns the layout of a module; values are read when they are asked for.

  Args:
    path: A SavedModel's directory; a TensorFlow checkpoint's prefix, one of its
      files or its directory; or a file of tf_keras.

  Raises:
    CheckpointError: if it is damaged, or has variables besides the module's
      that are not the one dense layer of a head.
  """
  files, manifest, built = (path,), None, None
  if path.is_dir() and (path / _GRAPH).is_file():
    file_format = "saved_model"
    built = hub_graph.read(path / _GRAPH)
    opened = tf_checkpoint.open_reader(path / _VARIABLES)
    files = (path / _GRAPH, *opened.files)
    if (path / _MANIFEST).is_file():
      manifest = _manifest(path / _MANIFEST)
      files = (*files, path / _MANIFEST)
    named = _of_checkpoint(opened)
  elif tf_checkpoint.recognises(path):
    file_format = "tf_checkpoint"
    opened = tf_checkpoint.open_reader(path)
    files, named = opened.files, _of_checkpoint(opened)
  elif keras3.recognises(path):
    file_format = "keras3"
    named = _of_keras3(path)
  elif _is_hdf5(path):
    file_format = "keras_h5"
    named = _of_hdf5(path)
  else:
    raise errors.CheckpointError(
        f"{path} is neither a SavedModel nor a checkpoint of TensorFlow or "
        f"Keras; expected {DESCRIPTION}. Check the path.")
  renamed, notes = _head(path, named)
  tensors, unexpected, duplicates = layout.collect(
      _distinct(named), lambda _, tensor: renamed.get(tensor.name, tensor.name))
  return layout.Layout(
      source="hub", format=file_format, tensors=tensors, unexpected=unexpected,
      duplicates=duplicates, files=files, spelling=lambda name: name,
      may_lack_head=True, manifest=manifest, notes=notes,
      convention=built and built.convention, mean=built and built.mean,
      std=built and built.std)


def _distinct(named: Named) -> dict[str, layout.StoredTensor]:
  """Returns the tensors by names that differ."""
  stored = {}
  for place, tensor in named:
    name = tensor.name if tensor.name not in stored else (
        f"{tensor.name} at {place}")
    stored[name] = tensor
  return stored


def _head(path: pathlib.Path,
          named: Named) -> tuple[dict[str, str], tuple[str, ...]]:
  """Returns {its name: canonical name} of a new head, and notes on it.

  Raises:
    CheckpointError: if there are other variables than the module's and a head.
  """
  tensors = {tensor.name: tensor for _, tensor in named}
  others = {n: t for n, t in tensors.items() if not _NAME.fullmatch(n)}
  if not others:
    return {}, ()
  kernels = [n for n in others if n.rpartition("/")[2] == "kernel"]
  kernel = kernels[0] if kernels else ""
  bias = kernel.removesuffix("kernel") + "bias"
  listed = ", ".join(f"{n} {list(t.shape)}" for n, t in [*others.items()][:6])
  if "head/kernel" in tensors:
    raise errors.CheckpointError(
        f"{path} holds a classifier with its own head, and {len(others)} more "
        f"variables on top of its logits: {listed}; there is one head only in "
        "a module. Put the new layer on the feature extractor instead, or save "
        "the classifier alone.")
  last = max((n for n in tensors if _LAST_CONV.fullmatch(n)),
             key=lambda n: int(_LAST_CONV.fullmatch(n)[1]), default=None)
  width = tensors[last].shape[-1:] if last else ()
  if set(others) != {kernel, bias} or len(others[kernel].shape) != 2 or (
      others[kernel].shape[:1] != width
      or others[bias].shape != others[kernel].shape[1:]):
    raise errors.CheckpointError(
        f"{path} holds {len(others)} variables that are not the module's: "
        f"{listed}; expected at most one dense layer on the features, with a "
        f"kernel [{', '.join(map(str, width)) or 'features'}, classes] and a "
        "bias [classes]. Save the module alone, or fine-tune with one such "
        "layer.")
  return ({kernel: "head/kernel", bias: "head/bias"},
          (f"{kernel} is taken as the head; its activation is not: the module "
           "gives logits",))


def _manifest(path: pathlib.Path) -> Mapping[str, Any]:
  """Returns an export's manifest."""
  try:
    size = path.stat().st_size
    if size > _MAX_MANIFEST_BYTES:
      raise ValueError(f"it has {size} bytes; at most {_MAX_MANIFEST_BYTES} "
                       "are read")
    manifest = json.loads(path.read_text("utf-8"))
    if not isinstance(manifest, dict):
      raise ValueError("it is no JSON object")
  except (OSError, ValueError, RecursionError) as e:
    raise errors.CheckpointError(
        f"{path} cannot be read as an export's manifest ({e}); expected the "
        "JSON object that was exported. Copy the export again, or remove the "
        "file.") from e
  return manifest


def _of_checkpoint(opened: tf_checkpoint.Reader) -> Named:
  """Returns (key, tensor) for all of a checkpoint but the training's own."""
  named = []
  for name, key in _attributes(opened):
    if not _NAME.fullmatch(name) and _TRAINING & set(key.split("/")):
      continue
    try:
      tensor = opened.tensor(key, name)
    except tf_checkpoint.DAMAGE as e:
      raise tf_checkpoint.damaged(opened.prefix, e) from e
    # Counters, and the state of random generators.
    if _NAME.fullmatch(name) or tensor.dtype.kind not in "biuOSU":
      named.append((key, tensor))
  return named


def _attributes(opened: tf_checkpoint.Reader) -> Iterator[tuple[str, str]]:
  """Yields (full name, key) for each variable of the object graph."""
  for node in opened.object_graph().nodes:
    for attribute in node.attributes:
      if attribute.name == _VALUE:
        key = attribute.checkpoint_key
        yield attribute.full_name or key.partition("/.ATTRIBUTES")[0], key


def _of_hdf5(path: pathlib.Path) -> Named:
  """Returns (path, tensor) for all weights that a .h5 file lists."""
  opener = functools.partial(h5py.File, path, "r")
  try:
    with path.open("rb") as raw:
      hdf5.check_heaps(raw)
    with opener() as f:
      return [(dataset.name, layout.StoredTensor(
          name, dataset.shape, dataset.dtype,
          functools.partial(hdf5.values, opener, dataset.name)))
              for name, dataset in _listed(f)
              if _NAME.fullmatch(name) or dataset.dtype.kind not in "biuOSU"]
  except hdf5.DAMAGE as e:
    raise errors.CheckpointError(
        f"{path} cannot be read as an .h5 file of tf_keras ({e}); expected a "
        "whole one. Copy or save it again.") from e


def _listed(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
  """Yields (name, dataset) for the weights of all layers."""
  group = file
  if file.get("model_weights", getlink=True) is not None:
    group = hdf5.member(file, "model_weights")
  for layer in hdf5.names(group, "layer_names") or ():
    for weight in hdf5.names(hdf5.member(group, layer), "weight_names") or ():
      yield weight.removesuffix(":0"), hdf5.dataset(group, f"{layer}/{weight}")


def _of_keras3(path: pathlib.Path) -> Named:
  """Returns (path, tensor) for all layers of a .keras or .weights.h5 file.

  Raises:
    CheckpointError: if its KerasLayer is not one of a module of this project.
  """
  named = []
  for layer in keras3.layers(keras3.opened(path)):
    if layer.kind == _LAYER:
      try:
        names = _ordered_names([t.shape for t in layer.tensors])
      except ValueError as e:
        raise errors.CheckpointError(
            f"{path}: the variables of {layer.path} are not those of a module "
            f"of this project in their order ({e}). Save the model as .h5, "
            "where variables have names.") from e
    else:
      names = [f"{layer.path}/{leaf}" for leaf in layer.leaves]
    for place, tensor in enumerate(layer.tensors):
      name = names[place] if place < len(names) else tensor.name
      if _NAME.fullmatch(name) or tensor.dtype.kind not in "biuOSU":
        named.append((tensor.name, layout.StoredTensor(
            name, tensor.shape, tensor.dtype, tensor.read)))
  return named


def _ordered_names(shapes: Sequence[tuple[int, ...]]) -> list[str]:
  """Returns the canonical names of a module's variables.

  Args:
    shapes: Of the trainable ones in the order of the network, then the moving
      statistics.

  Raises:
    ValueError: if they are no RegNet's.
  """
  convs = [i for i, shape in enumerate(shapes) if len(shape) == 4]
  # A convolution is followed by gamma and beta; in squeeze-and-excite, by its
  # bias. The last one has no successor, and is followed by statistics as well.
  follow = [b - a - 1 for a, b in zip(convs, convs[1:])] + [2]
  parts = keras3.block_parts(
      [keras3.conv_kind(shapes[i], n == 1) if n in (1, 2) else "?"
       for i, n in zip(convs, follow)])
  names = []
  for part in parts:
    if "/se/" in part:
      names += [f"{part}/kernel", f"{part}/bias"]
    else:
      names += [f"{part}/conv", f"{part}/bn/gamma", f"{part}/bn/beta"]
  if len(names) < len(shapes) and len(shapes[len(names)]) == 2:
    names += ["head/kernel", "head/bias"]
  for part in parts:
    if "/se/" not in part:
      names += [f"{part}/bn/moving_mean", f"{part}/bn/moving_variance"]
  if len(names) != len(shapes):
    raise ValueError(f"there are {len(shapes)}, where its convolutions ask for "
                     f"{len(names)}")
  return names


def _is_hdf5(path: pathlib.Path) -> bool:
  if not path.is_file():
    return False
  with path.open("rb") as f:
    return f.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
