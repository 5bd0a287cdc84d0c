"""Both containers of torch: the values that torch wrote, and no code run.

Expected values were stored by torch itself (fixtures/make_torch_fixtures.py),
or are those that a file was put together from by hand.
"""

import json
import os
import pathlib
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from hub_export import errors
from hub_export.regnet.checkpoints import torch_file
from hub_export.regnet.checkpoints import torch_pickle
from tests import torch_pickles as by_hand

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "torch"
VALUES = np.array([1.5, -2.0, 3.25, 4.0], np.float32)
STATES = {  # Fixture -> {key of the state dict: what tensors.json calls it}.
    "timm_x.bin": {None: "timm_x"},
    "timm_training.pth.tar": {"state_dict": "timm_y",
                              "state_dict_ema": "timm_training"},
    "torchvision_y.pth": {None: "torchvision_y"},
    "torchvision_x.pth": {"model": "torchvision_x"},
    "pycls_y.pyth": {"model_state": "pycls_y_model", "ema_state": "pycls_y"},
    "pycls_x.pyth": {"model_state": "pycls_x"},
}


@pytest.fixture(name="saved")
def _saved(tmp_path):
  """Returns a function that writes bytes to a file."""
  def save(data):
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    return path
  return save


def both(content, data=VALUES.tobytes(), count=4):
  """Returns the same content in both containers."""
  return (by_hand.zipped(content, {"0": data}),
          by_hand.streamed(content, {"0": (count, data)}))


def refusal(path):
  """Returns the message with which a file is refused."""
  with pytest.raises(errors.CheckpointError) as caught:
    file = torch_file.load(path)
    for value in file.content.values():
      file.values(value)
  message = str(caught.value)
  assert message.startswith(str(path))
  assert "\n" not in message
  return message


@pytest.mark.parametrize("name", ["layouts.pth", "layouts_stream.pth"])
def test_values_are_those_that_torch_saved(name):
  assert torch_file.recognises(FIXTURES / name)
  file = torch_file.load(FIXTURES / name)
  with np.load(FIXTURES / "reference.npz") as archive:
    expected = {k.removeprefix("layouts/"): archive[k]
                for k in archive if k.startswith("layouts/")}
  assert set(file.content) == set(expected)
  for key, value in expected.items():
    tensor = file.content[key]
    actual = file.values(tensor)
    assert tensor.shape == value.shape
    assert file.dtype(tensor) == actual.dtype == value.dtype, key
    np.testing.assert_array_equal(actual, value, key)
    assert actual.flags.c_contiguous and actual.flags.writeable, key
  # Views share their storage and none was made contiguous by torch.
  content = file.content
  assert content["transposed"].storage == content["sliced"].storage
  assert content["transposed"].strides == (1, 4)
  assert content["sliced"].offset == 5


@pytest.mark.parametrize("name", STATES)
def test_every_tensor_of_the_networks_is_what_torch_saved(name):
  described = json.loads((FIXTURES / "tensors.json").read_text())
  file = torch_file.load(FIXTURES / name)
  for key, network in STATES[name].items():
    state = file.content if key is None else file.content[key]
    found = {n.removeprefix("module."):
             [list(t.shape), zlib.crc32(file.values(t).astype(np.float32))]
             for n, t in state.items()}
    assert found == described[network]


def test_scalars_beside_the_weights_are_read():
  content = torch_file.load(FIXTURES / "pycls_y.pyth").content
  assert content["test_err"] == 29.25  # np.float64 in the file.
  assert content["ema_err"] == 28.125
  assert content["epoch"] == 99
  assert content["cfg"] == "MODEL:\n  TYPE: regnet\n"
  content = torch_file.load(FIXTURES / "timm_training.pth.tar").content
  assert content["args"] == torch_pickle.Inert("argparse.Namespace")


def test_byte_order(saved):
  content = by_hand.state_dict(by_hand.tensor())
  data = VALUES.astype(">f4").tobytes()
  for order, stored in ((b"big", data), (b"little", VALUES.tobytes())):
    file = torch_file.load(saved(by_hand.zipped(
        content, {"0": stored}, [("archive/byteorder", order)])))
    np.testing.assert_array_equal(file.values(file.content["x"]), VALUES)
  assert "byte order" in refusal(saved(by_hand.zipped(
      content, {"0": data}, [("archive/byteorder", b"middle")])))


def test_views_of_old_storages(saved):
  stored = by_hand.storage(view=("1", 1, 3))
  content = by_hand.state_dict(by_hand.tensor(1, (2,), (1,), stored))
  for data in both(content):
    file = torch_file.load(saved(data))
    np.testing.assert_array_equal(file.values(file.content["x"]), VALUES[2:])
  beyond = by_hand.state_dict(by_hand.tensor(1, (3,), (1,), stored))
  for data in both(beyond):
    assert "goes beyond its storage" in refusal(saved(data))
  stored = by_hand.storage(view=("1", 2, 3))
  for data in both(by_hand.state_dict(by_hand.tensor(0, (1,), (1,), stored))):
    assert "goes beyond its 4 values" in refusal(saved(data))


def test_tensors_of_untyped_storages(saved):
  stored = by_hand.storage(count=16, kind="torch.storage.UntypedStorage")

  def v3(offset):
    return by_hand.state_dict(
        by_hand.named("torch._utils._rebuild_tensor_v3") + b"(" + stored +
        by_hand.literal(offset) + by_hand.literal((3,)) +
        by_hand.literal((1,)) + b"\x89N" + by_hand.named("torch.float32") +
        b"tR")

  file = torch_file.load(saved(by_hand.zipped(v3(1), {"0": VALUES.tobytes()})))
  np.testing.assert_array_equal(file.values(file.content["x"]), VALUES[1:])
  assert "goes beyond" in refusal(
      saved(by_hand.zipped(v3(2), {"0": VALUES.tobytes()})))


@pytest.mark.parametrize("offset, shape, strides, part", [
    (1, (4,), (1,), "goes beyond its storage"),
    (0, (2, 3), (2, 1), "goes beyond its storage"),
    (0, (2,), (1 << 40,), "goes beyond its storage"),
    (1 << 40, (1,), (1,), "goes beyond its storage"),
    (-1, (1,), (1,), "wrong arguments"),
    (0, (-1,), (1,), "wrong arguments"),
    (2, (2,), (-1,), "wrong arguments"),
    (0, (1 << 70,), (0,), "wrong arguments"),
    (0, (4,), (1, 1), "wrong arguments"),
    (0, (1,) * 100, (1,) * 100, "wrong arguments"),
    (0, (True,), (1,), "wrong arguments"),
    (0.0, (4,), (1,), "wrong arguments"),
    (0, (1 << 40,), (0,), "repeats its values"),
])
def test_tensors_outside_their_storage(saved, offset, shape, strides, part):
  content = by_hand.state_dict(by_hand.tensor(offset, shape, strides))
  for data in both(content):
    assert part in refusal(saved(data))


HOSTILE = {
    "os.system": by_hand.call("os.system", "touch CANARY"),
    "posix.system": by_hand.call("posix.system", "touch CANARY"),
    "builtins.eval": by_hand.call("builtins.eval", "open('CANARY', 'w')"),
    "__builtin__.exec": by_hand.call("__builtin__.exec", "open('CANARY','w')"),
    "builtins.getattr": by_hand.named("builtins.getattr") + b"(" +
                        by_hand.named("os") + by_hand.literal("system") + b"tR",
    "runpy._run_code": by_hand.call("runpy._run_code", "open('CANARY', 'w')"),
    "subprocess.Popen": by_hand.call("subprocess.Popen", ["touch", "CANARY"]),
    "copyreg._reconstructor": by_hand.named("copyreg._reconstructor") + b"(" +
                              by_hand.named("io.FileIO") +
                              by_hand.named("builtins.object") + b"NtR",
    "torch._utils.os.system": by_hand.call(
        "torch._utils.os.system", "touch CANARY"),
    "torch.storage._load_from_bytes": by_hand.call(
        "torch.storage._load_from_bytes", pickle.dumps(os.getpid)),
    "torch.hub.load": by_hand.call("torch.hub.load", "someone/something"),
    "numpy.core.multiarray._reconstruct": by_hand.call(
        "numpy.core.multiarray._reconstruct", (1 << 40,)),
    "timm.models.regnet.RegNet": by_hand.call("timm.models.regnet.RegNet"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_run_is_refused_by_name(saved, tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  for data in both(by_hand.state_dict(HOSTILE[name])):
    path = saved(data)
    message = refusal(path)
    # The first name in the pickle is refused, and getattr's is an argument.
    assert f"asks for {name}" in message
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_that_python_writes_run_nothing(saved, tmp_path, monkeypatch,
                                                protocol):
  monkeypatch.chdir(tmp_path)

  class Bomb:

    def __reduce__(self):
      return os.mkdir, ("CANARY",)

  data = pickle.dumps({"x": Bomb()}, protocol)
  pickle.loads(data)  # It would run, if it were executed.
  (tmp_path / "CANARY").rmdir()
  for container in both(data):
    assert f"asks for {os.mkdir.__module__}.mkdir" in refusal(saved(container))
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("instructions, part", [
    (b"(" + by_hand.literal("ls") + b"ios\nsystem\n", "os.system"),
    (b"(" + by_hand.named("collections.OrderedDict") + b"o", "OBJ"),
    (b"\x82\x01", "EXT1"),
    (b"Pname\n", "PERSID"),
    (by_hand.literal(("module", "a", "b", "c", "d")) + b"Q", "no storage"),
    (by_hand.literal("text") + b")R", "call of what is no global"),
    (by_hand.named("torch.FloatStorage") + b")R", "torch.FloatStorage"),
    (by_hand.named("collections.OrderedDict") +
     by_hand.literal(([(1, 2)],)) + b"R", "wrong arguments"),
    (by_hand.call("torch.Size", [1] * 9), "wrong arguments"),
    (by_hand.call("_codecs.encode", "x" * 65, "latin1"), "wrong arguments"),
    (by_hand.call("_codecs.encode", "x", "rot13"), "wrong arguments"),
    (by_hand.call("numpy.dtype", "O8", False, True), "wrong arguments"),
    (by_hand.literal(1 << 200), "integer of 201 bits"),
    (b"}" + by_hand.literal((1,)) + b"Ns", "tuple as a key"),
    (b"NNb", "state of what has none"),
    (b"h\x07", "damaged"), (b"0", "damaged"), (b"t", "damaged"),
    (b"((s", "damaged"), (b"a", "damaged"), (b"\xff", "damaged"),
    (b"I" + b"9" * 5000 + b"\n", "damaged"), (b"\x8e" + b"\xff" * 8, "damaged"),
    (b"X\xff\xff\xff\x7f", "larger"), (b"X\x44\0\0\0abc", "damaged"),
    (b"\x8b\xff\xff\xff\x7f", "larger"), (b"G1234", "damaged"),
])
def test_instructions_that_are_refused(saved, instructions, part):
  for data in both(by_hand.PROTOCOL_2 + b"}" + by_hand.literal("x") +
                   instructions + b"s."):
    assert part in refusal(saved(data))


def peak_bytes(path):
  """Returns the most memory that opening a file takes, well or ill."""
  tracemalloc.start()
  try:
    torch_file.load(path)
  except errors.CheckpointError:
    pass
  finally:
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
  return peak


BOMBS = {
    "many objects": b"}" * 300_000,
    "a deep nest": b"](" * 150_000,
    "a deep tuple": b")" + b"\x85" * 300_000,
    "doubled": b"]q\x00" + b"2\x86q\x00h\x00" * 50_000,
    "memo": b"N" + b"\x94" * 300_000,
    "memo with a huge index": b"Nr\xff\xff\xff\x7f" * 50_000,
    "a copy each call": by_hand.literal("x" * (1 << 20)) + b"q\x01" + (
        by_hand.named("_codecs.encode") + b"h\x01" +
        by_hand.literal("latin1") + b"\x86R") * 1000,
    "text": by_hand.literal("\U0001F600" + "x" * (16 << 20)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_little_memory_and_time(saved, name):
  path = saved(by_hand.streamed(by_hand.PROTOCOL_2 + BOMBS[name] + b"0."))
  begun = time.process_time()
  assert peak_bytes(path) < 100 << 20
  assert time.process_time() - begun < 10


def test_members_of_archives(saved):
  content = by_hand.state_dict(by_hand.tensor())
  data = {"0": VALUES.tobytes()}
  for name, part in (("../../etc/cron.d/x", "points out"),
                     ("/etc/passwd", "points out"),
                     ("archive\\..\\x", "points out"),
                     ("other/data.pkl", "2 members <root>/data.pkl"),
                     ("archive/code/m.py", "TorchScript")):
    message = refusal(saved(by_hand.zipped(content, data, [(name, b"x")])))
    assert part in message
  with pytest.warns(UserWarning, match="Duplicate name"):
    twice = by_hand.zipped(content, data, [("archive/data/0", b"x" * 16)])
  assert "two members of one name" in refusal(saved(twice))
  assert "no member 'archive/data/0'" in refusal(
      saved(by_hand.zipped(content, {"1": VALUES.tobytes()})))
  assert "should have 16 bytes" in refusal(
      saved(by_hand.zipped(content, {"0": b"x" * 15})))
  assert "no member 'archive/data/../data.pkl'" in refusal(saved(
      by_hand.zipped(by_hand.state_dict(by_hand.tensor(
          stored=by_hand.storage("../data.pkl"))), data)))
  assert "compressed" in refusal(saved(by_hand.zipped(
      content, data, compression=zipfile.ZIP_DEFLATED)))


def test_archives_that_are_bombs(saved):
  # 64 MB of zeros in 64 KB; and a directory of a million members.
  deflated = by_hand.zipped(bytes(64 << 20), compression=zipfile.ZIP_DEFLATED)
  assert len(deflated) < 1 << 20
  assert peak_bytes(saved(deflated)) < 20 << 20
  content = by_hand.state_dict(by_hand.tensor())
  plain = by_hand.zipped(content, {"0": VALUES.tobytes()})
  size, start = struct.unpack("<LL", plain[-10:-2])
  entry = plain[start:start + size]
  large = (plain[:start] + entry * ((8 << 20) // size) + plain[-22:-10] +
           struct.pack("<LLH", (8 << 20) // size * size, start, 0))
  assert peak_bytes(saved(large)) < 60 << 20
  assert "directory has more than" in refusal(saved(large))
  # A member that says it is larger than the file.
  place = plain.index(b"PK\x01\x02")
  lying = bytearray(plain)
  lying[place + 20:place + 28] = struct.pack("<LL", 1 << 31, 1 << 31)
  assert "cut off" in refusal(saved(bytes(lying)))


def test_streams_that_do_not_add_up(saved):
  content = by_hand.state_dict(by_hand.tensor())
  data = VALUES.tobytes()

  def stream(*args, **kwargs):
    return saved(by_hand.streamed(*args, **kwargs))

  assert "should have 4 values" in refusal(stream(content, {"0": (5, data)}))
  assert "should have 4 values" in refusal(stream(content, {"0": (-4, data)}))
  assert "ends before" in refusal(stream(content, {"0": (4, data[:-1])}))
  assert "are not those" in refusal(stream(content, {"1": (4, data)}))
  assert "are not those" in refusal(stream(content))
  assert "magic number" in refusal(stream(content, magic=7))
  assert "protocol is 1002" in refusal(stream(content, protocol=1002))
  two_ways = (by_hand.PROTOCOL_2 + b"}" + by_hand.literal("x") +
              by_hand.tensor() + b"s" + by_hand.literal("y") + by_hand.tensor(
                  0, (2,), (1,), by_hand.storage(kind="torch.DoubleStorage")) +
              b"s.")
  assert "described in two ways" in refusal(stream(two_ways, {"0": (4, data)}))


def test_a_file_that_shrinks_after_it_was_opened(saved):
  path = saved(both(by_hand.state_dict(by_hand.tensor()))[1])
  file = torch_file.load(path)
  path.write_bytes(path.read_bytes()[:-3])
  with pytest.raises(errors.CheckpointError, match="become shorter"):
    file.values(file.content["x"])


@pytest.mark.parametrize("data", [
    b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x89HDF\r\n\x1a\n", b"\x80",
    b"<html>", bytes(100)])
def test_what_is_no_torch_file(saved, data):
  path = saved(data)
  assert not torch_file.recognises(path)
  refusal(path)


def test_an_archive_without_its_end_is_still_one_of_torch(saved):
  """Otherwise a download that broke off would be "of no known format"."""
  whole = by_hand.zipped(by_hand.state_dict(by_hand.tensor()),
                         {"0": VALUES.tobytes()})
  for cut in (-4, -40, len(whole) // 2, 50):
    path = saved(whole[:cut])
    assert torch_file.recognises(path)
    assert "cannot be read as a torch checkpoint" in refusal(path)
  assert not torch_file.recognises(saved(whole.replace(
      b"archive/data.pkl", b"archive/data.txt")[:-40]))


def test_containers_are_not_written_out_in_messages(saved):
  """Thirty doublings of a tuple would be gigabytes of text."""
  doubled = by_hand.PROTOCOL_2 + b"N" + b"2\x86" * 30 + b"."
  deep = by_hand.PROTOCOL_2 + b"N" + b"\x85" * 100_000 + b"."
  for content in (doubled, deep):
    stream = pickle.dumps(by_hand.MAGIC, 2) + content
    assert "its protocol is a tuple" in refusal(saved(stream))


def test_values_are_read_one_tensor_at_a_time(saved):
  """A file of 64 MB opens and gives a tensor in a fraction of that."""
  content = by_hand.PROTOCOL_2 + b"}" + b"".join(
      by_hand.literal(str(i)) + by_hand.tensor(0, (1 << 18,), (1,), (
          by_hand.storage(str(i), 1 << 18))) + b"s" for i in range(64)) + b"."
  path = saved(by_hand.zipped(
      content, {str(i): bytes(1 << 20) for i in range(64)}))
  tracemalloc.start()
  file = torch_file.load(path)
  opened = tracemalloc.get_traced_memory()[1]
  for tensor in file.content.values():
    assert file.values(tensor).shape == (1 << 18,)
  read = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert opened < 6 << 20
  assert read < 6 << 20
