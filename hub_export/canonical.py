"""Makes a written SavedModel the same bytes in every process.

TensorFlow 2.21 numbers functions by a counter that belongs to the process, and
puts them into saved_model.pb in the order of a hash of those names; both differ
as soon as the process has traced anything before. fingerprint.pb carries a
random uuid. Here functions of one name are numbered from 0, in the order in
which they were traced, and the uuid is derived from the content. Shapes that
follow from an operation and its inputs are left out; they make up a tenth.
"""

import collections
import copy
import hashlib
import pathlib
import re
from collections.abc import Mapping

from google.protobuf import message
from tensorflow.core.protobuf import fingerprint_pb2
from tensorflow.core.protobuf import saved_model_pb2
# No public function writes a fingerprint (TensorFlow 2.21).
from tensorflow.python.saved_model import fingerprinting_utils

_NUMBERED = re.compile(r"(.+_)(\d+)")
_UNUSED = "___redundant_placeholder"
_USER_NAME = "_user_specified_name"
_SHAPES = "_output_shapes"
# Importing a graph infers the shapes of all these, and nothing else asks.
_SHAPES_FOLLOW = frozenset(["Cast", "Const", "Mul", "Relu", "Rsqrt", "Sub"])
# Half of all messages; no function's name is in them.
_NAMELESS = frozenset(["tensorflow.TensorShapeProto"])
_INPUT_OUTPUT = ("__inference__traced_save", "__inference__traced_restore")
_GRADIENT = re.compile(r"(CustomGradient-)(\d+)")


def canonicalise(export_dir: pathlib.Path) -> None:
  """Rewrites saved_model.pb and fingerprint.pb of a SavedModel in place."""
  path = export_dir / "saved_model.pb"
  saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
  for graph in saved.meta_graphs:
    _canonicalise_graph(graph)
  path.write_bytes(saved.SerializeToString(deterministic=True))
  _write_fingerprint(export_dir, saved)


def _canonicalise_graph(graph) -> None:
  """Renumbers the functions of one MetaGraphDef and sorts them."""
  library = graph.graph_def.library
  renamed = (
      _renumbered([f.signature.name for f in library.function], _NUMBERED)
      | _renumbered([g.registered_op_type for g in library.registered_gradients],
                    _GRADIENT))
  for function in library.function:
    _clean_arguments(function, renamed)
    _leave_out_shapes(function)
  _rename(graph, renamed, {k.encode(): v.encode() for k, v in renamed.items()})
  for field, key in ((library.function, lambda f: f.signature.name),
                     (library.gradient, lambda g: g.function_name),
                     (library.registered_gradients,
                      lambda g: g.registered_op_type)):
    ordered = sorted(field, key=key)
    del field[:]
    field.extend(ordered)


def _clean_arguments(function, renamed: Mapping[str, str]) -> None:
  """Takes the process's counters out of the arguments of a FunctionDef."""
  for argument in function.signature.input_arg:
    # A loop's condition names what it does not use after itself.
    if _UNUSED in argument.name:
      for old, new in renamed.items():
        argument.name = re.sub(rf"{re.escape(old)}(?=_)", new, argument.name)
  # What was captured is "named by the user" with the id of a Python object.
  attributes = [a.attr for a in function.arg_attr.values()]
  attributes += [n.attr for n in function.node_def]
  for attribute in attributes:
    if attribute.get(_USER_NAME) and attribute[_USER_NAME].s.isdigit():
      del attribute[_USER_NAME]


def _leave_out_shapes(function) -> None:
  """Takes out of a FunctionDef the shapes that importing it infers anyway."""
  is_all = function.signature.name.startswith(_INPUT_OUTPUT)
  for node in function.node_def:
    if is_all or node.op in _SHAPES_FOLLOW:
      node.attr.pop(_SHAPES, None)


def _renumbered(names: list[str], pattern: re.Pattern[str]) -> dict[str, str]:
  """Returns old name -> new name; numbers stand for the order of tracing.

  Functions of one name are counted by themselves: saving a module again traces
  its signatures' wrappers anew, later than everything else.
  """
  matches = [m for m in map(pattern.fullmatch, names) if m]
  counts = collections.Counter()
  renamed = {}
  for match in sorted(matches, key=lambda m: int(m[2])):
    # Fixed width, so that sorting the names sorts the numbers.
    renamed[match[0]] = f"{match[1]}{counts[match[1]]:04d}"
    counts[match[1]] += 1
  return renamed


def _rename(proto: message.Message, names: Mapping[str, str],
            as_bytes: Mapping[bytes, bytes]) -> None:
  """Replaces every string and bytes value, and map key, that is a name."""
  for field, value in proto.ListFields():
    kind = field.type
    if kind == field.TYPE_MESSAGE:
      if field.message_type.full_name in _NAMELESS:
        continue
      if not field.is_repeated:
        _rename(value, names, as_bytes)
      elif not field.message_type.GetOptions().map_entry:
        for item in value:
          _rename(item, names, as_bytes)
      else:
        _rename_map(field, value, names, as_bytes)
    elif kind in (field.TYPE_STRING, field.TYPE_BYTES):
      table = names if kind == field.TYPE_STRING else as_bytes
      if field.is_repeated:
        value[:] = [table.get(item, item) for item in value]
      elif value in table:
        setattr(proto, field.name, table[value])


def _rename_map(field, value, names: Mapping[str, str],
                as_bytes: Mapping[bytes, bytes]) -> None:
  """As `_rename`, for one map field."""
  of_messages = field.message_type.fields_by_name["value"].message_type
  if of_messages:
    for item in value.values():
      _rename(item, names, as_bytes)
  if not any(key in names for key in value) and (
      of_messages or not any(item in names for item in value.values())):
    return
  # All at once: a new name may be the old one of another, or of the same.
  entries = [(names.get(key, key), copy.deepcopy(item))
             for key, item in value.items()]
  value.clear()
  for key, item in entries:
    if of_messages:
      value[key].CopyFrom(item)
    else:
      value[key] = names.get(item, item)


def _write_fingerprint(export_dir: pathlib.Path,
                       saved: saved_model_pb2.SavedModel) -> None:
  """Writes fingerprint.pb, every field of which follows from the content."""
  fingerprinting_utils.write_fingerprint(str(export_dir))
  path = export_dir / "fingerprint.pb"
  fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
  # TensorFlow 2.21 hashes the object graph's maps in the order in which they
  # happen to lie in memory: four calls gave three results.
  fingerprint.saved_object_graph_hash = int.from_bytes(hashlib.sha256(
      b"".join(graph.object_graph_def.SerializeToString(deterministic=True)
               for graph in saved.meta_graphs)).digest()[:8], "big")
  fingerprint.ClearField("uuid")
  content = fingerprint.SerializeToString(deterministic=True)
  fingerprint.uuid = str(int.from_bytes(
      hashlib.sha256(content).digest()[:16], "big"))
  path.write_bytes(fingerprint.SerializeToString(deterministic=True))
