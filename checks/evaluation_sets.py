"""The data sets that exports are evaluated on, through TFDS.

A split comes as encoded images, labels and file names, exactly as TFDS stores
them; decoding is up to the model's own preprocessing. Nothing is downloaded:
a data set that is not prepared on this machine is an UnavailableError that
says how to prepare it. The embedded digits are prepared on the spot.
"""

import dataclasses
import hashlib
import pathlib
import shlex
import sys
from collections.abc import Iterable

import tensorflow as tf
import tensorflow_datasets as tfds

from hub_export import digits
from hub_export import errors
from hub_export import labels

# Examples in splits whose size is known; another number means a data set
# prepared from an incomplete archive, whose labels are then wrong as well
# (TFDS gives them by rank in the archive).
KNOWN_SIZES = {
    ("imagenet2012", "validation"): 50_000,
    (digits.NAME, "test"): 360,
    (digits.NAME, "train"): 1_437,
}

_NOT_IN_TFDS = {labels.OWN: "one of its own, without a name",
                "imagenet12k": "ImageNet-12k"}
_IMAGENET_SPLITS = ("test", "train", "validation")


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
  """One split of a data set that is ready to be read."""
  name: str                     # As in TFDS, such as "imagenet2012".
  version: str                  # TFDS' version, such as "5.1.0".
  split: str                    # Such as "validation".
  num_examples: int             # As TFDS recorded it on preparing.
  class_names: tuple[str, ...]  # For people, in label order.
  path: pathlib.Path            # Where TFDS keeps it.
  builder: tfds.core.DatasetBuilder = dataclasses.field(repr=False)

  def examples(self) -> tf.data.Dataset:
    """Returns all examples, each once, in TFDS' stored order.

    Elements are dicts of scalars: "image" string, the encoded file; "label"
    int64; "file_name" string, unlike for each example.
    """
    features = self.builder.info.features
    dataset = self.builder.as_dataset(
        split=self.split, shuffle_files=False,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True))
    # Where a data set stores no names, TFDS' own key of the example is one.
    key = "file_name" if "file_name" in features else "tfds_id"
    return dataset.map(lambda e: {
        "image": e["image"], "label": e["label"], "file_name": e[key]})


def open(name: str, split: str,  # pylint: disable=redefined-builtin
         data_dir: pathlib.Path | None = None) -> EvaluationSet:
  """Returns a split of a data set that is prepared on this machine.

  Args:
    name: TFDS' name, with a configuration and version if wanted, or
      "optical_digits".
    split: The split's name.
    data_dir: TFDS' directory of data sets; by default TFDS' own default, and
      for the embedded digits one in the cache.

  Raises:
    UnavailableError: if the data set is not prepared there.
    UsageError: if there is no such data set or split.
    HubExportError: if it is damaged, incomplete or not one of images and
      labels.
  """
  if name in _NOT_IN_TFDS:
    raise errors.UnavailableError(
        f"the export's data set is {_NOT_IN_TFDS[name]}, which TensorFlow "
        "Datasets does not have; if you have one with the same classes, name "
        "it with --dataset and --split")
  # Its splits are known even where it is not prepared.
  if name == "imagenet2012" and split not in _IMAGENET_SPLITS:
    raise errors.UsageError(
        f"the data set {name} has no split {split!r}; expected one of "
        f"{', '.join(_IMAGENET_SPLITS)}")
  builder = (digits.prepare(data_dir) if name == digits.NAME
             else _builder(name, data_dir))
  splits = builder.info.splits
  if split not in splits:
    if name == "imagenet2012":
      raise _unavailable(builder, f"has no split {split!r}")
    raise errors.UsageError(
        f"the data set {name} in {builder.data_path} has no split {split!r}; "
        f"expected one of {', '.join(sorted(splits))}")
  features = builder.info.features
  if not (hasattr(features, "keys") and {"image", "label"} <= set(features)
          and isinstance(features["label"], tfds.features.ClassLabel)):
    raise errors.HubExportError(
        f"the data set {name} has the features {features}; expected an "
        "\"image\" and a class \"label\". Choose a data set of labelled "
        "images.")
  num_examples = splits[split].num_examples
  expected = KNOWN_SIZES.get((name, split), num_examples)
  if num_examples != expected or not num_examples:
    raise errors.HubExportError(
        f"{name}/{split} in {builder.data_path} has {num_examples:,} examples; "
        f"expected {expected or 'some':,}. It was prepared from an incomplete "
        "archive; remove the directory and prepare it again from the whole "
        "one.")
  return EvaluationSet(
      name=name, version=str(builder.version), split=split,
      num_examples=num_examples, class_names=_class_names(name, builder),
      path=pathlib.Path(builder.data_path), builder=builder)


def digest(pairs: Iterable[tuple[str, int]]) -> str:
  """Returns a SHA-256 over (file name, label) that no order changes."""
  lines = sorted(f"{name}\t{label}\n" for name, label in pairs)
  return hashlib.sha256("".join(lines).encode()).hexdigest()


def _builder(name: str, data_dir: pathlib.Path | None
             ) -> tfds.core.DatasetBuilder:
  """Returns the builder of a prepared data set."""
  try:
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
  except tfds.core.DatasetNotFoundError as e:
    raise errors.UsageError(
        f"TensorFlow Datasets has no data set {name!r}; expected a name such "
        "as imagenet2012, or optical_digits. See "
        "https://www.tensorflow.org/datasets/catalog.") from e
  except Exception as e:  # TFDS reads JSON and protos, each with own errors.
    raise errors.HubExportError(
        f"the data set {name!r} cannot be opened ({e}); expected one prepared "
        "by TensorFlow Datasets. Remove its directory and prepare it "
        "again.") from e
  if not builder.is_prepared():
    raise _unavailable(builder, "is not there")
  return builder


def _unavailable(builder: tfds.core.DatasetBuilder, fault: str
                 ) -> errors.UnavailableError:
  """Returns the error that says how to prepare a data set."""
  name = builder.name
  if builder.builder_config:
    name += f"/{builder.builder_config.name}"
  root = pathlib.Path(builder.data_path)
  root = root.parents[name.count("/") + 1]
  lines = [f"the data set {name} {fault} (looked in {root}). Prepare it once:"]
  if builder.name == "imagenet2012":
    lines += [
        "  1. get ILSVRC2012_img_val.tar (6.3 GB, with an account on "
        "https://image-net.org/download-images) and put it, as it is, into "
        f"{root / 'downloads' / 'manual'}",
        "  2. run this; it needs another 7 GB and some minutes:",
    ]
  else:
    lines += ["  run this; it may download a lot:"]
  lines += [
      f"     {shlex.quote(sys.executable)} -c \"import tensorflow_datasets as "
      "tfds; "
      f"tfds.builder('{name}', data_dir='{root}').download_and_prepare()\"",
      "  Is it somewhere else? Name TFDS' directory with --data_dir.",
  ]
  return errors.UnavailableError("\n".join(lines))


def _class_names(name: str, builder: tfds.core.DatasetBuilder
                 ) -> tuple[str, ...]:
  """Returns the class names, for people where TFDS has WordNet ids."""
  stored = tuple(builder.info.features["label"].names)
  if labels.known(name) and name != digits.NAME:
    if stored != labels.synsets(name):
      raise errors.HubExportError(
          f"the data set {name} in {builder.data_path} has its classes in "
          "another order than ImageNet's sorted WordNet ids. Remove the "
          "directory and prepare it again.")
    return labels.names(name)
  return stored
