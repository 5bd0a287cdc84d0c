"""Reads the pickles of torch files without executing any.

A pickle is a program that may call anything. This is an interpreter of its own
for the part of the language that tensors in plain containers need: nothing is
looked up or called, a global is only a name, and each name that may be "called"
has a handler here that makes inert data. Whatever else a pickle asks for is
refused by name.

Memory is bounded: a pickle's bytes and instructions are counted, no length
that it states is believed before the bytes are there, and the memo is a table,
so that no index makes it large. Nothing recurses, however deep the nesting.
"""

import dataclasses
import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from hub_export import errors

# The deepest variant (27 blocks, 700 tensors) with its EMA weights and the
# optimizer's state takes 0.3 MB and some 80,000 instructions.
MAX_BYTES = 8 << 20
MAX_INSTRUCTIONS = 250_000
_MAX_DIMENSIONS = 8
_MAX_INTEGER_BITS = 128  # Hashing a long one takes as long as one likes.
_MAX_ENCODED = 64        # Bytes spelled as text; a number has 8.

# Quantised storages are left out: they have no plain values.
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32",
    "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_STORAGE_TYPES = {
    f"{module}.{name}": dtype for name, dtype in _STORAGES.items()
    for module in ("torch", "torch.cuda", "torch.storage")}
_DTYPES = {f"torch.{name}": name for name in sorted(set(_STORAGES.values()))}
ITEM_BYTES = {name: 2 if name == "bfloat16" else np.dtype(name).itemsize
              for name in _STORAGES.values()}


@dataclasses.dataclass(frozen=True)
class Storage:
  """A run of values in a file, which tensors are cut from."""
  key: str      # Names the values in the file.
  dtype: str    # As NumPy spells it, and "bfloat16".
  count: int    # Values in the whole of it.
  start: int    # Of the view of it that is meant, in values.
  length: int   # Of that view, in values.

  @property
  def whole_bytes(self) -> int:
    """Bytes of all its values, not of the view."""
    return self.count * ITEM_BYTES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Says where a tensor's values lie; holds none. Inside its storage."""
  storage: Storage
  dtype: str
  offset: int                # From the storage's start, in values of `dtype`.
  shape: tuple[int, ...]
  strides: tuple[int, ...]   # In values.

  @property
  def span(self) -> int:
    """Values from the first to the last of them; 0 for an empty tensor."""
    if 0 in self.shape:
      return 0
    return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides))


@dataclasses.dataclass(frozen=True)
class Global:
  """A name that a pickle uses; not what it stands for."""
  name: str


@dataclasses.dataclass(frozen=True)
class Inert:
  """An object that is of no use here, and whose state is dropped."""
  name: str


@dataclasses.dataclass
class _NumpyDtype:
  """numpy.dtype("f8") with the byte order that its state adds."""
  code: str
  order: str = "<"


_MARK = object()
_KEY_TYPES = (str, bytes, int, float, bool, type(None))


class _Limited:
  """A file from which one pickle may take so many bytes and no more."""

  def __init__(self, file: BinaryIO, limit: int):
    self._file, self._left = file, limit

  def read(self, size: int) -> bytes:
    if size > self._left:
      raise errors.CheckpointError(
          f"its pickle is larger than {MAX_BYTES} bytes, or says so")
    self._left -= size
    return self._file.read(size)

  def readline(self) -> bytes:
    line = self._file.readline(self._left + 1)
    if len(line) > self._left:
      raise errors.CheckpointError(
          f"its pickle is larger than {MAX_BYTES} bytes")
    self._left -= len(line)
    return line


def load(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
  """Returns (what a pickle says, the storages of its tensors by key).

  That is made of plain containers, `Tensor` and `Inert`; ordered dictionaries
  are dicts, numpy scalars Python ones.

  Args:
    file: At the start of the pickle; afterwards right behind it.

  Raises:
    CheckpointError: if it is damaged, too large, or has or asks for anything
      that a checkpoint's tensors do not need. The message is a clause; the
      caller adds the path.
  """
  machine = _Machine()
  limited = _Limited(file, MAX_BYTES)
  try:
    for count, (opcode, argument, _) in enumerate(
        pickletools.genops(limited)):
      if count > MAX_INSTRUCTIONS:
        raise errors.CheckpointError(
            f"its pickle has more than {MAX_INSTRUCTIONS} instructions")
      machine.execute(opcode.name, argument)
  # What a pickle raises that is cut off, or uses the stack wrongly.
  except (ValueError, TypeError, IndexError, KeyError, AttributeError,
          OverflowError, struct.error) as e:
    raise errors.CheckpointError(
        f"its pickle is damaged ({shown(e)})") from e
  return machine.result, machine.storages


def shown(value: object) -> str:
  """Returns a hostile value fit for a message: short, and in one line.

  Of a container only what it is: tuples of tuples of the same tuple may be
  spelled in a few bytes, and would be written out for ever.
  """
  if not isinstance(value, (str, bytes, int, float, Exception, type(None))):
    return f"a {type(value).__name__}"
  text = "".join(c if c.isprintable() else "?" for c in str(value)[:200])
  return text if len(text) < 120 else f"{text[:117]}..."


class _Machine:
  """The stack, the memo, and what each instruction does to them."""

  def __init__(self):
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}
    self.result: Any = None
    self.storages: dict[str, Storage] = {}

  def execute(self, name: str, argument: Any) -> None:
    """Carries out one instruction.

    Args:
      name: As pickletools spells it.
      argument: As pickletools decodes it.
    """
    if name in _CONSTANTS:
      self._stack.append(_CONSTANTS[name]())
    elif name in _LITERALS:
      if type(argument) is int and argument.bit_length() > _MAX_INTEGER_BITS:
        raise _refusal(f"an integer of {argument.bit_length()} bits")
      self._stack.append(argument)
    elif name in _GETS:
      self._stack.append(self._memo[int(argument)])
    elif name in _PUTS:
      self._memo[int(argument)] = self._stack[-1]
    elif name in _INSTRUCTIONS:
      _INSTRUCTIONS[name](self)
    elif name == "GLOBAL":
      self._stack.append(_global(argument.replace(" ", ".", 1)))
    elif name == "INST":
      raise _refusal(shown(argument.replace(" ", ".", 1)))
    elif name not in ("PROTO", "FRAME"):
      raise _refusal(f"the instruction {name}")

  def pop(self) -> Any:
    """Takes the top off the stack; IndexError if it is a mark or nothing."""
    value = self._stack.pop()
    if value is _MARK:
      raise IndexError("a value is missing on the stack")
    return value

  def pop_to_mark(self) -> list[Any]:
    """Takes all values down to the mark, and the mark."""
    for i in range(len(self._stack) - 1, -1, -1):
      if self._stack[i] is _MARK:
        values = self._stack[i + 1:]
        del self._stack[i:]
        return values
    raise IndexError("a mark is missing on the stack")

  def stop(self) -> None:
    self.result = self.pop()

  def memoize(self) -> None:
    self._memo[len(self._memo)] = self._stack[-1]

  def duplicate(self) -> None:
    self._stack.append(self._stack[-1])

  def make_tuple(self, length: int) -> None:
    values = tuple(self._stack[-length:])
    if len(values) != length or any(v is _MARK for v in values):
      raise IndexError("a value is missing on the stack")
    self._stack[-length:] = [values]

  def marked(self, make: Callable[[list[Any]], Any]) -> None:
    self._stack.append(make(self.pop_to_mark()))

  def extend(self, values: list[Any]) -> None:
    target = self._stack[-1]
    if type(target) is not list:
      raise TypeError("values are appended to what is no list")
    target.extend(values)

  def update(self, values: list[Any]) -> None:
    target = self._stack[-1]
    if type(target) is not dict:
      raise TypeError("items are set in what is no dictionary")
    target.update(_dict(values))

  def append(self) -> None:
    value = self.pop()
    self.extend([value])

  def set_item(self) -> None:
    value, key = self.pop(), self.pop()
    self.update([key, value])

  def stack_global(self) -> None:
    name, module = self.pop(), self.pop()
    if type(name) is not str or type(module) is not str:
      raise TypeError("a global's name is no text")
    self._stack.append(_global(f"{module}.{name}"))

  def reduce(self) -> None:
    arguments, function = self.pop(), self.pop()
    if type(function) is not Global or type(arguments) is not tuple:
      raise _refusal("a call of what is no global")
    handler = _HANDLERS.get(function.name)
    if handler is None:
      raise _refusal(f"a call of {shown(function.name)}")
    try:
      self._stack.append(handler(*arguments))
    except errors.CheckpointError:
      raise
    except (TypeError, ValueError, OverflowError, LookupError) as e:
      raise errors.CheckpointError(
          f"its pickle calls {function.name} with the wrong arguments "
          f"({shown(e)})") from e

  def build(self) -> None:
    state, target = self.pop(), self._stack[-1]
    if type(target) is _NumpyDtype:
      if type(state) is not tuple or state[1] not in ("<", ">", "|", "="):
        raise ValueError("a numpy dtype has no byte order")
      target.order = state[1]
    elif type(target) not in (dict, Inert, Tensor):  # Theirs is dropped.
      raise _refusal("the state of what has none")

  def persistent(self) -> None:
    storage = _storage(self.pop())
    whole = dataclasses.replace(storage, start=0, length=storage.count)
    if self.storages.setdefault(storage.key, whole) != whole:
      raise errors.CheckpointError(
          f"storage {shown(storage.key)!r} is described in two ways")
    self._stack.append(storage)


def _refusal(what: str) -> errors.CheckpointError:
  return errors.CheckpointError(
      f"its pickle asks for {what}, which is refused: only tensors in plain "
      "containers are read, and no code is run")


def _global(name: str) -> Global:
  """Returns the name, if it is one of those that mean something here."""
  if (name in _HANDLERS or name in _STORAGE_TYPES or name in _DTYPES):
    return Global(name)
  raise _refusal(shown(name))


def _dict(values: list[Any]) -> dict[Any, Any]:
  """Returns the dictionary of alternating keys and values."""
  if len(values) % 2:
    raise ValueError("a key has no value")
  for key in values[::2]:
    # Of plain types only: the hash of a deep tuple recurses.
    if type(key) not in _KEY_TYPES:
      raise TypeError(f"a {type(key).__name__} as a key")
  return dict(zip(values[::2], values[1::2]))


def _natural(value: Any, what: str) -> int:
  """Returns a size; ValueError for what is none or absurd."""
  if type(value) is not int or not 0 <= value < 1 << 62:
    raise ValueError(f"{what} is no size")
  return value


def _storage(record: Any) -> Storage:
  """Returns the storage of a persistent id (torch/serialization.py).

  That is ("storage", type, key, device, number of values), and in files of the
  old container perhaps the view of it: (key, offset, length).
  """
  if (type(record) is not tuple or len(record) not in (5, 6) or
      record[0] not in ("storage", b"storage")):
    raise _refusal("a persistent object that is no storage")
  kind, key, _, count = record[1:5]
  if type(kind) is not Global or kind.name not in _STORAGE_TYPES:
    raise ValueError("a storage has no type")
  if type(key) is not str:
    raise ValueError("a storage has no key")
  count = _natural(count, "a storage's length")
  start, length = 0, count
  if len(record) == 6 and record[5] is not None:
    _, start, length = record[5]
    start = _natural(start, "a view's offset")
    length = _natural(length, "a view's length")
    if start + length > count:
      raise errors.CheckpointError(
          f"a view of storage {shown(key)!r} goes beyond its {count} values")
  return Storage(key, _STORAGE_TYPES[kind.name], count, start, length)


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple[int, ...],
                    strides: tuple[int, ...], *rest: Any) -> Tensor:
  """Returns the tensor, if it lies in its storage.

  Args:
    storage: Where its values are.
    offset: Of the first one.
    shape: Its sizes.
    strides: Values from one to the next along each dimension.
    *rest: requires_grad, hooks and metadata; they change no value.
  """
  if len(rest) > 3 or type(storage) is not Storage:
    raise TypeError("a tensor without a storage")
  return _tensor(storage, storage.dtype, offset, shape, strides)


def _rebuild_tensor_v3(storage: Storage, offset: int, shape: tuple[int, ...],
                       strides: tuple[int, ...], requires_grad: bool,
                       hooks: Any, dtype: Global, *metadata: Any) -> Tensor:
  """Returns the tensor of a storage without a type of its own."""
  del requires_grad, hooks
  if (len(metadata) > 1 or type(storage) is not Storage or
      type(dtype) is not Global or dtype.name not in _DTYPES):
    raise TypeError("a tensor without storage or dtype")
  return _tensor(storage, _DTYPES[dtype.name], offset, shape, strides)


def _tensor(storage: Storage, dtype: str, offset: int, shape: tuple[int, ...],
            strides: tuple[int, ...]) -> Tensor:
  if (type(shape) is not tuple or type(strides) is not tuple or
      len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS):
    raise ValueError("a tensor's sizes and strides do not match")
  for value in (offset, *shape, *strides):
    _natural(value, "an offset, size or stride of a tensor")
  tensor = Tensor(storage, dtype, offset, shape, strides)
  item = ITEM_BYTES[dtype]
  if (offset + tensor.span) * item > (
      storage.length * ITEM_BYTES[storage.dtype]):
    raise errors.CheckpointError(
        f"a tensor of sizes {list(shape)}, strides {list(strides)} and offset "
        f"{offset} goes beyond its storage {shown(storage.key)!r} of "
        f"{storage.length} values")
  return tensor


def _parameter(data: Tensor, *rest: Any) -> Tensor:
  """Returns the tensor of a torch.nn.Parameter."""
  if type(data) is not Tensor or len(rest) > 3:
    raise TypeError("a parameter without a tensor")
  return data


def _ordered_dict() -> dict[Any, Any]:
  """Returns a dict; its items follow as instructions of their own.

  No arguments are taken: whatever a call copies, it could copy at each of
  250,000 calls. The same goes for the other handlers.
  """
  return {}


def _size(sizes: Any) -> tuple[Any, ...]:
  if type(sizes) is not tuple or len(sizes) > _MAX_DIMENSIONS:
    raise TypeError("a torch.Size of no short tuple")
  return sizes


def _numpy_dtype(code: str, *flags: Any) -> _NumpyDtype:
  if type(code) is not str or code not in (
      "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"
  ) or len(flags) > 2:
    raise TypeError("a numpy dtype that is no plain number")
  return _NumpyDtype(code)


def _numpy_scalar(dtype: _NumpyDtype, data: bytes) -> int | float | bool:
  """Returns the value of a numpy scalar, such as the test_err of pycls."""
  if type(dtype) is not _NumpyDtype or type(data) is not bytes:
    raise TypeError("a numpy scalar without type or bytes")
  plain = np.dtype(dtype.code).newbyteorder(dtype.order)
  if len(data) != plain.itemsize:
    raise ValueError(f"{len(data)} bytes for one number")
  return np.frombuffer(data, plain)[0].item()


def _encode(text: str, encoding: str) -> bytes:
  """Returns bytes; protocol 2 has no bytes and spells them so."""
  if (type(text) is not str or len(text) > _MAX_ENCODED or
      encoding != "latin1"):
    raise TypeError("bytes that are no short latin1")
  return text.encode("latin-1")


def _inert(name: str) -> Callable[..., Inert]:
  return lambda *unused: Inert(name)


_HANDLERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "torch.device": _inert("torch.device"),
    # The arguments that timm's training stores beside the weights.
    "argparse.Namespace": _inert("argparse.Namespace"),
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "_codecs.encode": _encode,
}

_CONSTANTS = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK, "EMPTY_LIST": list, "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT",
    "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_INSTRUCTIONS: dict[str, Callable[[_Machine], None]] = {
    "STOP": _Machine.stop,
    "MEMOIZE": _Machine.memoize,
    "POP": lambda m: m._stack.pop(),
    "POP_MARK": lambda m: m.pop_to_mark(),
    "DUP": _Machine.duplicate,
    "TUPLE": lambda m: m.marked(tuple),
    "LIST": lambda m: m.marked(list),
    "DICT": lambda m: m.marked(_dict),
    "TUPLE1": lambda m: m.make_tuple(1),
    "TUPLE2": lambda m: m.make_tuple(2),
    "TUPLE3": lambda m: m.make_tuple(3),
    "APPEND": _Machine.append,
    "APPENDS": lambda m: m.extend(m.pop_to_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m: m.update(m.pop_to_mark()),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
