"""What a model said about every example of a split, and the file it is kept in.

Predictions allow to resume an evaluation, to compare two of them pairwise and
to explain their figures. The file is Parquet, which pandas and others read.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from checks import report
from hub_export import errors
from hub_export import export_dirs

SCHEMA_VERSION = 2
NO_LABEL = -1
_CONTEXT = b"regnety_hub"
_SCHEMA = pa.schema([
    ("file_name", pa.string()), ("example_sha256", pa.binary(32)),
    ("labels", pa.list_(pa.int32())), ("top", pa.list_(pa.int32())),
    ("probabilities", pa.list_(pa.float32())), ("margin", pa.float32()),
    ("nll", pa.float32())])


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
  """One row for each example; classes are the model's, from 0 up."""
  file_names: tuple[str, ...]  # Unlike each other, ascending.
  example_sha256: np.ndarray   # S32 [n]: of `example_digest`.
  labels: np.ndarray           # int32 [n, most per example]: the right classes,
                               # NO_LABEL fills up. An example without any is
                               # evaluated, and left out of rates.
  top: np.ndarray              # int32 [n, min(5, classes)], best first.
  probabilities: np.ndarray    # float32 like `top`: softmax over the classes
                               # that the data set has.
  margins: np.ndarray          # float32 [n]: best less second best logit, in
                               # standard deviations of the example's logits.
  nll: np.ndarray              # float32 [n]: negative log-likelihood of the
                               # first label, in nats; NaN without a label.

  def __len__(self) -> int:
    return len(self.file_names)

  @property
  def has_label(self) -> np.ndarray:
    """bool [n]: which examples count."""
    return (self.labels != NO_LABEL).any(axis=1)

  @property
  def hits(self) -> np.ndarray:
    """bool [n, min(5, classes)]: where `top` is a right class."""
    return ((self.top[:, :, None] == self.labels[:, None, :])
            & (self.labels[:, None, :] != NO_LABEL)).any(axis=2)

  @property
  def top1(self) -> report.Rate:
    return report.Rate(int(self.hits[:, 0].sum()), int(self.has_label.sum()))

  @property
  def top5(self) -> report.Rate:
    return report.Rate(int(self.hits.any(axis=1).sum()),
                       int(self.has_label.sum()))

  def keys(self) -> list[bytes]:
    """Returns every example's digest; NumPy leaves out trailing zeros."""
    return [bytes(e).ljust(32, b"\0") for e in self.example_sha256]

  def data_digest(self) -> str:
    """Returns a SHA-256 over the examples, images included, in no order."""
    return hashlib.sha256(b"".join(sorted(self.keys()))).hexdigest()

  def digest(self) -> str:
    """Returns a SHA-256 over (file name, top classes), which counts rest on."""
    lines = (f"{name}\t{' '.join(map(str, row))}\n" for name, row in
             zip(self.file_names, self.top.tolist()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()

  def rows(self, chosen: Any) -> "Predictions":
    """Returns those at the indices, or where the mask is true, in order."""
    columns = {f.name: getattr(self, f.name)[chosen]
               for f in dataclasses.fields(self) if f.name != "file_names"}
    names = np.array(self.file_names, object)[chosen]
    return Predictions(tuple(names), **columns)


def from_logits(file_names: Sequence[str], example_sha256: Sequence[bytes],
                labels: Sequence[Sequence[int]], logits: np.ndarray,
                allowed: np.ndarray | None = None) -> Predictions:
  """Returns the predictions of a batch, in its order.

  Args:
    file_names: Of n examples.
    example_sha256: Their `example_digest`.
    labels: The right classes of each, in the model's numbers; may be none.
    logits: float32 [n, classes].
    allowed: bool [classes], those that the data set has, if not all; others
      are never predicted.

  Raises:
    HubExportError: if a logit is not finite.
  """
  if not np.isfinite(logits).all():
    bad = ~np.isfinite(logits).all(axis=1)
    raise errors.HubExportError(
        f"the logits of {file_names[int(bad.argmax())]} are not finite; "
        "expected numbers")
  logits = logits.astype(np.float64)
  spread = np.maximum(logits.std(axis=1), 1e-30)
  if allowed is not None:
    logits = np.where(allowed, logits, -np.inf)
  count = logits.shape[1] if allowed is None else int(allowed.sum())
  # Of equal ones the first, whatever the machine.
  order = np.argsort(-logits, axis=1, kind="stable")[:, :min(5, count)]
  best = np.take_along_axis(logits, order, axis=1)
  top = logits.max(axis=1, keepdims=True)
  log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
  widest = max((len(row) for row in labels), default=0) or 1
  padded = np.full((len(labels), widest), NO_LABEL, np.int32)
  for row, found in zip(padded, labels, strict=True):
    row[:len(found)] = found
  first = np.take_along_axis(logits, np.maximum(padded[:, :1], 0), axis=1)[:, 0]
  return Predictions(
      tuple(file_names), np.array(example_sha256, "S32"), padded,
      order.astype(np.int32),
      np.exp(best - log_sum[:, None]).astype(np.float32),
      # Of a single class, its own: nothing else can come first.
      ((best[:, 0] - best[:, :2][:, -1]) / spread).astype(np.float32),
      np.where(padded[:, 0] == NO_LABEL, np.nan,
               log_sum - first).astype(np.float32))


def example_digest(file_name: str, labels: Sequence[int], encoded: bytes
                   ) -> bytes:
  """Returns 32 bytes that tell an example from all others, and from changed
  ones of its name: its image, name and labels in the data set's own numbers."""
  head = json.dumps([file_name, [int(c) for c in labels]])
  return hashlib.sha256(
      hashlib.sha256(encoded).digest() + head.encode()).digest()


def concatenate(parts: Sequence[Predictions]) -> Predictions:
  """Returns all rows by ascending file name. They have the same classes.

  Names may come more than once here; whether they do is for a check to tell.
  """
  widest = max(p.labels.shape[1] for p in parts)
  columns = {}
  for field in dataclasses.fields(Predictions):
    values = [getattr(p, field.name) for p in parts]
    if field.name == "labels":
      values = [np.pad(v, [(0, 0), (0, widest - v.shape[1])],
                       constant_values=NO_LABEL) for v in values]
    if field.name != "file_names":
      columns[field.name] = np.concatenate(values)
  names = [name for part in parts for name in part.file_names]
  order = sorted(range(len(names)), key=names.__getitem__)
  return Predictions(tuple(names[i] for i in order),
                     **{k: v[order] for k, v in columns.items()})


def write(predictions: Predictions, path: pathlib.Path,
          context: Mapping[str, Any]) -> None:
  """Writes predictions, whole or not at all.

  Args:
    predictions: What is written.
    path: The file.
    context: JSON that says what they are of; comes back from `read`.

  Raises:
    WriteError: if it cannot be written.
  """
  table = pa.table({
      "file_name": pa.array(predictions.file_names, pa.string()),
      "example_sha256": pa.array(predictions.keys(), pa.binary(32)),
      "labels": pa.array(_label_lists(predictions), pa.list_(pa.int32())),
      "top": pa.array(list(predictions.top), pa.list_(pa.int32())),
      "probabilities": pa.array(
          list(predictions.probabilities), pa.list_(pa.float32())),
      "margin": pa.array(predictions.margins, pa.float32()),
      "nll": pa.array(predictions.nll, pa.float32()),
  }, schema=_SCHEMA)
  record = json.dumps({"schema_version": SCHEMA_VERSION,
                       "rows_sha256": _rows_sha256(predictions), **context},
                      allow_nan=False)
  buffer = io.BytesIO()
  parquet.write_table(table.replace_schema_metadata(
      {_CONTEXT: record.encode()}), buffer, compression="zstd")
  export_dirs.write_file(path, buffer.getvalue())


def read(path: pathlib.Path) -> tuple[Predictions, dict[str, Any]]:
  """Returns predictions and their context.

  Raises:
    FileNotFoundError: if there is no such file.
    ChecksError: if it is damaged or of another schema.
  """
  try:
    table = parquet.read_table(path)
    context = json.loads(table.schema.metadata[_CONTEXT])
    if context.pop("schema_version") != SCHEMA_VERSION or (
        not table.schema.equals(_SCHEMA)):
      raise ValueError("it is of another version")
    rows = {name: table.column(name) for name in table.column_names}
    labels = rows["labels"].to_pylist()
    widest = max(map(len, labels), default=0) or 1
    n = table.num_rows
    k = len(rows["top"][0]) if n else 1
    found = Predictions(
        tuple(rows["file_name"].to_pylist()),
        np.array(rows["example_sha256"].to_pylist(), "S32").reshape(n),
        np.array([row + [NO_LABEL] * (widest - len(row)) for row in labels],
                 np.int32).reshape(n, widest),
        np.array(rows["top"].to_pylist(), np.int32).reshape(n, k),
        np.array(rows["probabilities"].to_pylist(), np.float32).reshape(n, k),
        rows["margin"].to_numpy().astype(np.float32),
        rows["nll"].to_numpy().astype(np.float32))
    # Parquet itself does not notice all flipped bits.
    if context.pop("rows_sha256") != _rows_sha256(found):
      raise ValueError("its rows are not those that were written")
  except FileNotFoundError:
    raise
  except (OSError, ValueError, KeyError, TypeError, IndexError,
          pa.ArrowException) as e:
    raise errors.ChecksError(
        f"{path} cannot be read ({e}); expected the predictions of an "
        "evaluation. Remove it and evaluate again.") from e
  return found, context


def _label_lists(predictions: Predictions) -> list[list[int]]:
  return [[c for c in row if c != NO_LABEL]
          for row in predictions.labels.tolist()]


def _rows_sha256(predictions: Predictions) -> str:
  """Returns a SHA-256 over all values, in their order."""
  digest = hashlib.sha256(json.dumps(
      [predictions.file_names, _label_lists(predictions)]).encode())
  digest.update(b"".join(predictions.keys()))
  digest.update(predictions.top.astype("<i4").tobytes())
  for values in (predictions.probabilities, predictions.margins,
                 predictions.nll):
    digest.update(values.astype("<f4").tobytes())
  return digest.hexdigest()
