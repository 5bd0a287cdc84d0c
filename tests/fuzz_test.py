"""Damaged and hostile checkpoints by the hundred: an error, and nothing run.

Hypothesis makes the same files on every run. Each starts from a small sound
file of its format. What comes of it is a layout whose tensors have the shapes
that they state, or a CheckpointError; meanwhile nothing is executed, and no
other file is opened.
"""

import pathlib
import struct
import sys
import tempfile
import tracemalloc

import h5py
import hypothesis
from hypothesis import strategies
import numpy as np
import pytest
import safetensors.numpy

from hub_export import errors
from hub_export.regnet.checkpoints import hdf5
from hub_export.regnet.checkpoints import keras_h5
from hub_export.regnet.checkpoints import safetensors_file
from hub_export.regnet.checkpoints import torch_checkpoint
from tests import torch_pickles as by_hand

_SETTINGS = hypothesis.settings(
    derandomize=True, database=None, deadline=None, max_examples=100,
    phases=[hypothesis.Phase.generate])
_MOST_BYTES = 1 << 24  # The consumer reads tensors of expected shapes only.
_VALUES = np.arange(24, dtype=np.float32)
_KERNEL = _VALUES.reshape(4, 6, 1, 1)

# Audit events of what a checkpoint must never bring about.
_EXECUTION = ("exec", "compile", "import", "pickle.find_class", "os.system",
              "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen",
              "socket.connect", "ctypes.dlopen", "code.__new__")
_watched: list[pathlib.Path] = []
_seen: list[tuple[str, str]] = []


def _audit(event, args):
  if not _watched:
    return
  if event in _EXECUTION or (
      event == "open" and str(args[0]) not in map(str, _watched)):
    _seen.append((event, repr(args)[:200]))


sys.addaudithook(_audit)


def _torch_pickle():
  """Returns a state dict of two tensors with pycls' names."""
  return by_hand.PROTOCOL_2 + by_hand.dictionary({
      "s1.b1.f.a.weight": by_hand.tensor(
          0, (4, 6, 1, 1), (6, 1, 1, 1), by_hand.storage("0", 24)),
      "s1.b1.f.a_bn.bias": by_hand.tensor(
          2, (4,), (2,), by_hand.storage("1", 12)),
  }) + b"."


def _storages():
  return {"0": _VALUES.tobytes(), "1": _VALUES[:12].tobytes()}


def _zipped(content):
  return by_hand.zipped(content, _storages())


def _streamed(content):
  return by_hand.streamed(content, {
      key: (len(data) // 4, data) for key, data in _storages().items()})


def _hdf5():
  """Returns a file of one layer in the layout of model.save_weights."""
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / "a.h5"
    layer = "m_Stage_0_XBlock_0_conv_1x1_1"
    with h5py.File(path, "w") as f:
      # Text of any length, as Keras writes it, lies in a heap.
      f.attrs["layer_names"] = [layer]
      f.create_group(layer).attrs["weight_names"] = ["k/kernel:0"]
      f[layer].create_dataset("k/kernel:0", data=_KERNEL.transpose(2, 3, 1, 0))
    return path.read_bytes()


SOUND = {
    "zip": (torch_checkpoint, _zipped(_torch_pickle())),
    "stream": (torch_checkpoint, _streamed(_torch_pickle())),
    "safetensors": (torch_checkpoint, safetensors.numpy.save(
        {"s1.b1.f.a.weight": _KERNEL, "s1.b1.f.a_bn.bias": _VALUES[:4]},
        {"format": "pt"})),
    "hdf5": (keras_h5, _hdf5()),
}
NAME = "stage1/block1/a/conv"


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory):
  return tmp_path_factory.mktemp("fuzz") / "model"


def outcome(reader, path, data):
  """Returns canonical name -> values of what is read, None if refused."""
  path.write_bytes(data)
  _seen.clear()
  _watched.append(path)
  try:
    reader.recognises(path)
    found = reader.read(path)
    values = {}
    for name, tensor in found.tensors.items():
      size = int(np.prod(tensor.shape, dtype=float)) * tensor.dtype.itemsize
      if tensor.dtype.kind != "f" or size > _MOST_BYTES:
        continue
      try:
        values[name] = tensor.read()
      except errors.CheckpointError:
        continue
      except hdf5.DAMAGE:  # checkpoints/__init__ words it.
        assert found.format == "keras_h5"
        continue
      assert values[name].shape == tensor.shape
      assert values[name].dtype == tensor.dtype
    return values
  except errors.CheckpointError as e:
    assert str(e).startswith(str(path)) and len(str(e)) < 2000
    return None
  finally:
    _watched.clear()
    assert not _seen, _seen


@pytest.mark.parametrize("kind", SOUND)
def test_sound_files_are_read(path, kind):
  """Otherwise the rest would say nothing; imports are done as well then."""
  reader, data = SOUND[kind]
  assert reader.recognises(_written(path, data))
  values = {name: t.read() for name, t in reader.read(path).tensors.items()}
  np.testing.assert_array_equal(values[NAME], _KERNEL.transpose(2, 3, 1, 0))
  assert outcome(reader, path, data).keys() == values.keys()


def _written(path, data):
  path.write_bytes(data)
  return path


def test_the_watch_sees_what_it_should(path):
  _watched.append(path)
  try:
    eval("1")  # pylint: disable=eval-used
    with open(__file__, "rb"):
      pass
  finally:
    _watched.clear()
  assert {event for event, _ in _seen} == {"compile", "exec", "open"}
  _seen.clear()


@pytest.mark.parametrize("kind", SOUND)
def test_truncated_files(path, kind):
  reader, data = SOUND[kind]
  cuts = set(range(0, len(data), max(1, len(data) // 100))) | {len(data) - 1}
  # Without its end a file of any of these formats lacks something.
  for cut in cuts:
    assert outcome(reader, path, data[:cut]) in (None, {})


@pytest.mark.parametrize("kind", SOUND)
@_SETTINGS
@hypothesis.given(flips=strategies.lists(
    strategies.tuples(strategies.integers(0, 1 << 30),
                      strategies.integers(0, 7)), min_size=1, max_size=6))
def test_flipped_bits(path, kind, flips):
  reader, data = SOUND[kind]
  damaged = bytearray(data)
  for place, bit in flips:
    damaged[place % len(data)] ^= 1 << bit
  outcome(reader, path, bytes(damaged))


@pytest.mark.parametrize("kind", SOUND)
@_SETTINGS
@hypothesis.given(place=strategies.floats(0, 1), length=strategies.integers(
    0, 16), replacement=strategies.binary(max_size=24))
def test_spliced_files(path, kind, place, length, replacement):
  reader, data = SOUND[kind]
  at = int(place * len(data))
  outcome(reader, path, data[:at] + replacement + data[at + length:])


# What a hostile pickle is made of.
_PIECES = strategies.one_of(
    strategies.binary(min_size=1, max_size=4),
    strategies.sampled_from([
        by_hand.call("os.system", "exit"), by_hand.call("builtins.eval", "1"),
        by_hand.named("posix.system"), by_hand.named("builtins.getattr"),
        by_hand.named("runpy.run_path"), by_hand.named("collections.OrderedDict"),
        by_hand.named("torch._utils._rebuild_tensor_v2"),
        by_hand.named("torch._utils._rebuild_parameter"),
        by_hand.named("torch.FloatStorage"), by_hand.named("numpy.dtype"),
        by_hand.named("argparse.Namespace"), by_hand.named("_codecs.encode"),
        by_hand.storage("1", 12), by_hand.tensor(), b"(", b")", b"t", b"R",
        b"b", b"Q", b"}", b"]", b"u", b"s", b"e", b"a", b"0", b"1", b"2", b"o",
        b"\x81", b"\x85", b"\x86", b"\x87", b"\x93", b"\x94", b"h\x00",
        b"q\x01", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\x7f", b"N", b"."]),
    strategies.integers(-(1 << 70), 1 << 70).map(by_hand.literal),
    strategies.tuples(strategies.integers(-2, 40), strategies.integers(
        -2, 40)).map(by_hand.literal))


@pytest.mark.parametrize("container", [_zipped, _streamed])
@hypothesis.settings(_SETTINGS, max_examples=200)
@hypothesis.given(place=strategies.floats(0, 1),
                  pieces=strategies.lists(_PIECES, min_size=1, max_size=12))
def test_pickles_with_other_instructions(path, container, place, pieces):
  content = _torch_pickle()
  at = int(place * len(content))
  outcome(torch_checkpoint, path, container(
      content[:at] + b"".join(pieces) + content[at:]))


@hypothesis.settings(_SETTINGS, max_examples=150)
@hypothesis.given(offset=strategies.integers(-2, 30), shape=strategies.lists(
    strategies.integers(-1, 8), max_size=4), strides=strategies.lists(
        strategies.integers(-1, 30), max_size=4))
def test_tensors_never_leave_their_storage(path, offset, shape, strides):
  content = by_hand.PROTOCOL_2 + by_hand.dictionary({
      "s1.b1.f.a_bn.bias": by_hand.tensor(
          offset, tuple(shape), tuple(strides), by_hand.storage("0", 24))
  }) + b"."
  values = outcome(torch_checkpoint, path, by_hand.zipped(
      content, {"0": _VALUES.tobytes()}))
  is_sound = (offset >= 0 and len(shape) == len(strides) and
              all(n >= 0 for n in (*shape, *strides)))
  if is_sound:
    # Worked out one index after another, by no formula.
    indices = [offset + sum(i * s for i, s in zip(index, strides))
               for index in np.ndindex(*shape)]
    is_sound = max(indices, default=offset - 1) < 24
  assert (values is not None) == is_sound
  if is_sound and values:
    np.testing.assert_array_equal(
        values["stage1/block1/a/bn/beta"].ravel(), indices)


@pytest.mark.parametrize("header", [
    b"{" * 1000, b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999]}}',
    b'{"a":{"dtype":"F32","shape":[18446744073709551615,2],'
    b'"data_offsets":[0,16]}}',
    b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}',
    b'{"a":{"dtype":"F8_E4M3","shape":[16],"data_offsets":[0,16]}}',
    b'{"a":{"dtype":"O","shape":[2],"data_offsets":[0,16]}}', b"[]", b"{}"])
def test_hostile_headers_of_safetensors(path, header):
  data = struct.pack("<Q", len(header)) + header + bytes(16)
  assert outcome(torch_checkpoint, path, data) is None


def test_a_file_that_ends_within_its_header_is_of_safetensors(path):
  data = SOUND["safetensors"][1]
  for cut in (9, 40, 150):
    assert safetensors_file.recognises(_written(path, data[:cut]))
    with pytest.raises(errors.CheckpointError, match="as a safetensors check"):
      torch_checkpoint.read(path)
  for other in (data[:8], b"PK\x03\x04aaaa{", b'\n\n      {"a": 1}'):
    assert not safetensors_file.recognises(_written(path, other))


def test_a_large_header_of_safetensors_is_not_taken_in(path):
  entry = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
  header = b"{" + b"".join(entry % i for i in range(200_000)) + b'"a":0}'
  tracemalloc.start()
  assert outcome(torch_checkpoint, path, struct.pack("<Q", len(header)) +
                 header) is None
  assert tracemalloc.get_traced_memory()[1] < 30 << 20
  tracemalloc.stop()


def test_a_chunk_larger_than_its_dataset_is_not_unpacked(path):
  """64 bytes of values that would take a gigabyte to unpack."""
  _written(path, SOUND["hdf5"][1])
  with h5py.File(path, "a") as f:
    group = f["m_Stage_0_XBlock_0_conv_1x1_1/k"]
    del group["kernel:0"]
    group.create_dataset("kernel:0", (1, 1, 4, 4), "f4", maxshape=(None,) * 4,
                         chunks=(1 << 10, 1 << 10, 16, 16), compression="gzip")
  with pytest.raises(errors.CheckpointError, match="packed in chunks of"):
    keras_h5.read(path)


def _replaced(path, **kwargs):
  """Returns the kernel, put anew into the sound HDF5 file."""
  _written(path, SOUND["hdf5"][1])
  with h5py.File(path, "a") as f:
    group = f["m_Stage_0_XBlock_0_conv_1x1_1/k"]
    del group["kernel:0"]
    group.create_dataset("kernel:0", **kwargs)


def test_packed_values_are_not_unpacked(path):
  """A chunk is unpacked to whatever it has, not to what it should have."""
  _replaced(path, data=np.zeros((1, 1, 16, 16), "f4"), compression="gzip")
  with pytest.raises(errors.CheckpointError, match="is packed; expected plain"):
    keras_h5.read(path)


@pytest.mark.parametrize("chunks", [None, (1, 1, 6, 4)])
def test_values_that_were_never_written_are_no_zeros(path, chunks):
  _replaced(path, shape=(1, 1, 6, 4), dtype="f4", chunks=chunks)
  tensor = keras_h5.read(path).tensors[NAME]
  with pytest.raises(ValueError, match="never written"):
    tensor.read()


def test_one_string_is_not_copied_for_each_name(path):
  """A megabyte that 3,000 names refer to would become three gigabytes."""
  with h5py.File(path, "w") as f:
    f.attrs["layer_names"] = [f"layer{i}" for i in range(3000)]
  with pytest.raises(errors.CheckpointError, match="would have 3000 values"):
    keras_h5.read(path)
  with h5py.File(path, "w") as f:
    f.attrs["layer_names"] = ["x" * (2 << 20)]
  with pytest.raises(errors.CheckpointError, match="has 2097152 bytes"):
    keras_h5.read(path)


def test_heaps_are_found_whatever_their_reserved_bytes(path):
  data = bytearray(SOUND["hdf5"][1])
  start = data.index(b"GCOL\x01")
  data[start + 5:start + 8] = b"\x07\x07\x07"
  first = start + 16
  data[first:first + 16] = bytes(16)
  assert outcome(keras_h5, path, bytes(data)) is None
  with path.open("rb") as f, pytest.raises(ValueError, match="are damaged"):
    hdf5.check_heaps(f)


@pytest.mark.parametrize("where", ["external", "virtual", "link"])
def test_hdf5_takes_nothing_from_other_files(path, tmp_path, where):
  secret = tmp_path / "secret"
  with h5py.File(secret, "w") as f:
    f.create_dataset("x", data=_KERNEL.transpose(2, 3, 1, 0))
  _written(path, SOUND["hdf5"][1])
  with h5py.File(path, "a") as f:
    group = f["m_Stage_0_XBlock_0_conv_1x1_1/k"]
    del group["kernel:0"]
    if where == "external":
      group.create_dataset("kernel:0", (1, 1, 6, 4), "f4",
                           external=[("/etc/passwd", 0, 96)])
    elif where == "virtual":
      virtual = h5py.VirtualLayout((1, 1, 6, 4), "f4")
      virtual[:] = h5py.VirtualSource(secret, "x", (1, 1, 6, 4))
      group.create_virtual_dataset("kernel:0", virtual)
    else:
      group["kernel:0"] = h5py.ExternalLink(secret, "/x")
  with pytest.raises(errors.CheckpointError,
                     match="is a link" if where == "link" else "its own"):
    keras_h5.read(path)
