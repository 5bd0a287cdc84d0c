"""The metadata of .tflite files, against bytes read by hand."""

import io
import struct
import zipfile

import pytest

from hub_export import errors
from hub_export.forms import lite_metadata


def made(has_labels=True):
  return lite_metadata.image_model(
      name="tiny", description="Gnus, 45° from above.", licence="mit",
      size_px=48, images="pixels", stats=(0.0, 255.0), output="logits",
      meaning="scores", has_labels=has_labels)


class Table:
  """A FlatBuffers table, read as its documentation describes the format."""

  def __init__(self, content, at):
    self.content, self.at = content, at
    self.vtable = at - struct.unpack_from("<i", content, at)[0]

  def place(self, slot):
    size, = struct.unpack_from("<H", self.content, self.vtable)
    if 4 + 2 * slot >= size:
      return None
    offset, = struct.unpack_from("<H", self.content, self.vtable + 4 + 2 * slot)
    return self.at + offset if offset else None

  def number(self, slot, form):
    return struct.unpack_from(form, self.content, self.place(slot))[0]

  def target(self, slot):
    place = self.place(slot)
    return place + struct.unpack_from("<I", self.content, place)[0]

  def table(self, slot):
    return Table(self.content, self.target(slot))

  def text(self, slot):
    at = self.target(slot)
    length, = struct.unpack_from("<I", self.content, at)
    assert self.content[at + 4 + length] == 0  # C programs want it.
    return self.content[at + 4:at + 4 + length].decode()

  def vector(self, slot):
    at = self.target(slot)
    count, = struct.unpack_from("<I", self.content, at)
    return [at + 4 + 4 * i for i in range(count)]

  def tables(self, slot):
    return [Table(self.content, at + struct.unpack_from(
        "<I", self.content, at)[0]) for at in self.vector(slot)]

  def floats(self, slot):
    return [struct.unpack_from("<f", self.content, at)[0]
            for at in self.vector(slot)]


def test_bytes_are_those_of_the_schema():
  # Slots are counted by hand in metadata_schema.fbs 1.1.0 of tflite-support.
  content = made()
  assert content[4:8] == b"M001"
  root = Table(content, struct.unpack_from("<I", content)[0])
  assert root.text(0) == "tiny"
  assert root.text(1) == "Gnus, 45° from above."
  assert root.text(5) == "mit"
  assert root.text(7) == "1.0.0"
  graph, = root.tables(3)
  taken, = graph.tables(2)
  given, = graph.tables(3)
  assert taken.text(0) == "images" and given.text(0) == "logits"
  kind = taken.table(3)
  assert kind.number(0, "<B") == 2  # ImageProperties.
  image = kind.table(1)
  assert image.number(0, "<b") == 1  # RGB.
  assert [image.table(1).number(i, "<I") for i in (0, 1)] == [48, 48]
  unit, = taken.tables(4)
  assert unit.number(0, "<B") == 1  # NormalizationOptions.
  assert unit.table(1).floats(0) == [0.0] and unit.table(1).floats(1) == [255.0]
  assert taken.table(5).floats(0) == [255.0]
  assert taken.table(5).floats(1) == [0.0]
  assert given.table(3).number(0, "<B") == 1  # FeatureProperties.
  labels, = given.tables(6)
  assert labels.text(0) == "labels.txt"
  assert labels.number(2, "<b") == 2  # TENSOR_AXIS_LABELS.


def test_what_was_written_is_read():
  found = lite_metadata.decode(made(has_labels=False))
  given, = found["subgraph_metadata"][0]["output_tensor_metadata"]
  assert "associated_files" not in given
  assert found["license"] == "mit"
  record = lite_metadata.decode(made())
  assert lite_metadata.decode(lite_metadata.encode(record)) == record


@pytest.mark.parametrize("content", [
    b"", b"\0" * 64, made()[:60], b"\xff\xff\xff\x7fM001"])
def test_other_bytes_are_told(content):
  with pytest.raises(errors.HubExportError, match="metadata .* cannot be read"):
    lite_metadata.decode(content)


def test_unknown_fields_are_refused():
  with pytest.raises(ValueError, match="colour"):
    lite_metadata.encode({"colour": "red"})


def test_files_behind_a_model():
  content = lite_metadata.append_files(b"TFL3 model", {"b.txt": b"2",
                                                       "a.txt": b"1\n"})
  assert content.startswith(b"TFL3 model")
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    assert archive.namelist() == ["a.txt", "b.txt"]
    # Android maps them into memory where they lie.
    assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
    assert archive.read("a.txt") == b"1\n"
  assert lite_metadata.read_files(content) == {"a.txt": b"1\n", "b.txt": b"2"}
  assert lite_metadata.read_files(b"TFL3 model") == {}
  damaged = content.replace(b"1\n", b"3\n")
  with pytest.raises(errors.HubExportError, match="ZIP archive"):
    lite_metadata.read_files(damaged)
