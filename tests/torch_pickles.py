"""Torch files put together by hand, byte by byte, hostile ones among them.

The formats are those of torch/serialization.py; torch takes no part.
"""

import io
import pickle
import struct
import zipfile

MAGIC = 0x1950a86a20f9469cfc6c
PROTOCOL_2 = b"\x80\x02"


def named(name):
  """Returns the instruction for a global, such as "os.system"."""
  module, _, attribute = name.rpartition(".")
  return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def literal(value):
  """Returns the instructions that make a plain value."""
  return pickle.dumps(value, 2)[2:-1]


def storage(key="0", count=4, kind="torch.FloatStorage", view=None):
  """Returns the instructions for a storage; `view` is (key, offset, length)."""
  tail = b"" if view is None else literal(view)
  return (b"(" + literal("storage") + named(kind) + literal(key) +
          literal("cpu") + literal(count) + tail + b"tQ")


def tensor(offset=0, shape=(4,), strides=(1,), stored=None):
  """Returns the instructions for a tensor, as torch.save writes them."""
  return (named("torch._utils._rebuild_tensor_v2") + b"(" +
          (storage() if stored is None else stored) + literal(offset) +
          literal(shape) + literal(strides) + b"\x89" +
          named("collections.OrderedDict") + b")RtR")


def call(function, *arguments):
  """Returns the instructions for a call with plain arguments."""
  return named(function) + literal(tuple(arguments)) + b"R"


def state_dict(value, name="x"):
  """Returns a pickle of {name: value}."""
  return PROTOCOL_2 + b"}" + literal(name) + value + b"s."


def dictionary(items):
  """Returns the instructions for a dict of name -> instructions."""
  return b"}(" + b"".join(
      literal(name) + value for name, value in items.items()) + b"u"


def zipped(content, storages=None, members=None,
           compression=zipfile.ZIP_STORED):
  """Returns the bytes of a zip container.

  Args:
    content: The bytes of data.pkl.
    storages: Key -> bytes.
    members: Full name -> bytes of further members, as pairs.
    compression: Of all members.
  """
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", compression) as archive:
    archive.writestr("archive/data.pkl", content)
    for key, data in (storages or {}).items():
      archive.writestr(f"archive/data/{key}", data)
    for name, data in members or ():
      archive.writestr(name, data)
  return buffer.getvalue()


def streamed(content, storages=None, magic=MAGIC, protocol=1001):
  """Returns the bytes of a file of the container before torch 1.6.

  Args:
    content: The bytes of the object's pickle.
    storages: Key -> (count, bytes).
    magic: The number that it starts with.
    protocol: The number that follows.
  """
  parts = [pickle.dumps(magic, 2), pickle.dumps(protocol, 2),
           pickle.dumps({"little_endian": True}, 2), content,
           pickle.dumps(list(storages or {}), 2)]
  for count, data in (storages or {}).values():
    parts += [struct.pack("<q", count), data]
  return b"".join(parts)
