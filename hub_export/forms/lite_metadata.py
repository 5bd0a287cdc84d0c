"""The metadata inside a .tflite file, and the files that travel with it.

The format is TensorFlow Lite Metadata, which Android Studio, the Task Library
and MediaPipe read: a FlatBuffer of its own among the model's buffers, and
associated files as a ZIP archive behind the model. Python's writer of it,
tflite-support, needs versions of protobuf and Python that TensorFlow has left
behind; so the tables that are needed are declared here, from
metadata_schema.fbs 1.1.0 (github.com/tensorflow/tflite-support), and written
by the FlatBuffers library.
"""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers

from hub_export import errors

BUFFER = "TFLITE_METADATA"  # What the model calls the buffer.
LABELS = "labels.txt"
# Values of enumerations and the parser that understands all that is written.
TENSOR_AXIS_LABELS = 2
RGB = 1
MIN_PARSER_VERSION = "1.0.0"
_IDENTIFIER = b"M001"
_DATE = (1980, 1, 1, 0, 0, 0)  # The first that ZIP knows: the bytes repeat.

# Table -> its fields in order, None for those that are not used here. A union
# takes two places, its type and its value; its members count from 1.
_TABLES: Mapping[str, Sequence[tuple[str, Any] | None]] = {
    "ModelMetadata": [
        ("name", "string"), ("description", "string"), ("version", "string"),
        ("subgraph_metadata", ["SubGraphMetadata"]), ("author", "string"),
        ("license", "string"), ("associated_files", ["AssociatedFile"]),
        ("min_parser_version", "string")],
    "SubGraphMetadata": [
        ("name", "string"), ("description", "string"),
        ("input_tensor_metadata", ["TensorMetadata"]),
        ("output_tensor_metadata", ["TensorMetadata"])],
    "TensorMetadata": [
        ("name", "string"), ("description", "string"), None,
        ("content", "Content"), ("process_units", ["ProcessUnit"]),
        ("stats", "Stats"), ("associated_files", ["AssociatedFile"])],
    "AssociatedFile": [
        ("name", "string"), ("description", "string"), ("type", "byte")],
    "Content": [
        ("content_properties", ("FeatureProperties", "ImageProperties"))],
    "FeatureProperties": [],
    "ImageProperties": [("color_space", "byte"), ("default_size", "ImageSize")],
    "ImageSize": [("width", "uint"), ("height", "uint")],
    "ProcessUnit": [("options", ("NormalizationOptions",))],
    "NormalizationOptions": [("mean", ["float"]), ("std", ["float"])],
    "Stats": [("max", ["float"]), ("min", ["float"])],
}
_SCALARS = {"byte": "<b", "uint": "<I", "float": "<f"}


def image_model(name: str, description: str, licence: str, size_px: int,
                images: str, stats: tuple[float, float], output: str,
                meaning: str, has_labels: bool) -> bytes:
  """Returns the metadata of a model from images to a vector.

  Args:
    name: The model's.
    description: A sentence or two.
    licence: Its name.
    size_px: Side of the images.
    images: What the input is to be.
    stats: Least and largest value of the input.
    output: The output's name.
    meaning: What it is.
    has_labels: Whether `LABELS` names the elements of the output.
  """
  labels = [{"name": LABELS, "description": "Class names, one a line, in the "
             "order of the output.", "type": TENSOR_AXIS_LABELS}]
  return encode({
      "name": name, "description": description, "license": licence,
      "min_parser_version": MIN_PARSER_VERSION,
      "subgraph_metadata": [{
          "input_tensor_metadata": [{
              "name": "images", "description": images,
              "content": {"content_properties": ("ImageProperties", {
                  "color_space": RGB,
                  "default_size": {"width": size_px, "height": size_px}})},
              # From pixels of 0 to 255 to [0, 1]. Where the input is of bytes,
              # its quantisation (1/255) takes that back, as the schema says.
              "process_units": [{"options": ("NormalizationOptions", {
                  "mean": [0.0], "std": [255.0]})}],
              "stats": {"min": [stats[0]], "max": [stats[1]]}}],
          "output_tensor_metadata": [{
              "name": output, "description": meaning,
              "content": {"content_properties": ("FeatureProperties", {})},
              **({"associated_files": labels} if has_labels else {})}]}]})


def encode(record: Mapping[str, Any]) -> bytes:
  """Returns a ModelMetadata FlatBuffer.

  Args:
    record: By field names; a union is the name of the member and its record.

  Raises:
    ValueError: if a field is none of the schema's that are written here.
  """
  builder = flatbuffers.Builder(1024)
  builder.Finish(_table(builder, "ModelMetadata", record), _IDENTIFIER)
  return bytes(builder.Output())


def decode(content: bytes) -> dict[str, Any]:
  """Returns what `encode` was given; fields with defaults are left out.

  Raises:
    HubExportError: if it is no ModelMetadata.
  """
  try:
    if content[4:8] != _IDENTIFIER:
      raise ValueError(f"its identifier is {content[4:8]!r}")
    return _decoded(content, _follow(content, 0), "ModelMetadata")
  except (struct.error, ValueError, IndexError, RecursionError) as e:
    raise errors.HubExportError(
        f"the metadata of the .tflite file cannot be read ({e}); expected "
        "TensorFlow Lite Metadata. Export the checkpoint again.") from e


def append_files(model: bytes, files: Mapping[str, bytes]) -> bytes:
  """Returns a model with files behind it, as a ZIP archive.

  Args:
    model: A .tflite file.
    files: Name -> content.
  """
  buffer = io.BytesIO(model)
  buffer.seek(0, io.SEEK_END)
  with zipfile.ZipFile(buffer, "a") as archive:
    for name, content in sorted(files.items()):
      archive.writestr(zipfile.ZipInfo(name, _DATE), content)
  return buffer.getvalue()


def read_files(content: bytes) -> dict[str, bytes]:
  """Returns the files behind a model; none where there is no archive.

  Raises:
    HubExportError: if the archive is damaged.
  """
  buffer = io.BytesIO(content)
  if not zipfile.is_zipfile(buffer):
    return {}
  try:
    with zipfile.ZipFile(buffer) as archive:
      return {name: archive.read(name) for name in archive.namelist()}
  except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as e:
    raise errors.HubExportError(
        f"the files behind the .tflite model cannot be read ({e}); expected a "
        "ZIP archive. Export the checkpoint again.") from e


def _table(builder: flatbuffers.Builder, name: str,
           record: Mapping[str, Any]) -> int:
  """Writes a table, what it refers to first; returns where it is."""
  fields = _slots(name)
  unknown = set(record) - set(fields)
  if unknown:
    raise ValueError(f"{name} has no {sorted(unknown)}")
  written = {key: _value(builder, fields[key][1], value)
             for key, value in record.items()}
  builder.StartObject(_num_slots(name))
  for key, value in written.items():
    slot, kind = fields[key]
    if isinstance(kind, tuple):
      member, value = value
      builder.PrependUint8Slot(slot, member, 0)
      slot += 1
    if kind == "byte":
      builder.PrependInt8Slot(slot, value, 0)
    elif kind == "uint":
      builder.PrependUint32Slot(slot, value, 0)
    else:
      builder.PrependUOffsetTRelativeSlot(slot, value, 0)
  return builder.EndObject()


def _value(builder: flatbuffers.Builder, kind: Any, value: Any) -> Any:
  """Writes what does not lie in the table itself; returns what does."""
  if kind == "string":
    return builder.CreateString(value)
  if isinstance(kind, str) and kind in _SCALARS:
    return value
  if isinstance(kind, tuple):
    member, content = value
    return kind.index(member) + 1, _table(builder, member, content)
  if isinstance(kind, str):
    return _table(builder, kind, value)
  element, = kind
  made = [_value(builder, element, v) for v in value]
  builder.StartVector(4, len(made), 4)
  for one in reversed(made):
    if element == "float":
      builder.PrependFloat32(one)
    else:
      builder.PrependUOffsetTRelative(one)
  return builder.EndVector()


def _decoded(content: bytes, at: int, name: str) -> dict[str, Any]:
  """Returns the table at an offset."""
  vtable = at - _number(content, at, "<i")
  size = _number(content, vtable, "<H")
  record = {}
  for key, (slot, kind) in _slots(name).items():
    place = _place(content, vtable, size, slot)
    if isinstance(kind, tuple):
      where = _place(content, vtable, size, slot + 1)
      if place and where:
        member = kind[content[at + place] - 1]
        record[key] = (member, _decoded(
            content, _follow(content, at + where), member))
    elif place:
      record[key] = _read(content, at + place, kind)
  return record


def _read(content: bytes, at: int, kind: Any) -> Any:
  if isinstance(kind, str) and kind in _SCALARS:
    return _number(content, at, _SCALARS[kind])
  at = _follow(content, at)
  if kind == "string":
    length = _number(content, at, "<I")
    return content[at + 4:at + 4 + length].decode()
  if isinstance(kind, str):
    return _decoded(content, at, kind)
  element, = kind
  return [_read(content, at + 4 + 4 * i, element)
          for i in range(_number(content, at, "<I"))]


def _place(content: bytes, vtable: int, size: int, slot: int) -> int:
  """Returns where in its table a field lies; 0 if it is left out."""
  entry = 4 + 2 * slot
  return _number(content, vtable + entry, "<H") if entry < size else 0


def _follow(content: bytes, at: int) -> int:
  return at + _number(content, at, "<I")


def _number(content: bytes, at: int, form: str) -> Any:
  return struct.unpack_from(form, content, at)[0]


def _slots(name: str) -> dict[str, tuple[int, Any]]:
  """Returns field -> (its first slot, its kind)."""
  found, slot = {}, 0
  for field in _TABLES[name]:
    if field:
      found[field[0]] = (slot, field[1])
    slot += 2 if field and isinstance(field[1], tuple) else 1
  return found


def _num_slots(name: str) -> int:
  return sum(2 if f and isinstance(f[1], tuple) else 1 for f in _TABLES[name])
