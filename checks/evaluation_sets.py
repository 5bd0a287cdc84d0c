"""The data sets that exports are evaluated on: through TFDS, or folders.

A split comes as encoded images, labels and file names, exactly as they are
stored; decoding is up to the model's own preprocessing. How its classes are
numbered is the data set's own affair: `EvaluationSet.class_map` gives the
model's numbers, by WordNet id where both sides have them. Nothing is
downloaded: a data set that is not prepared on this machine is an
UnavailableError that says how to prepare it. The embedded digits are prepared
on the spot.
"""

import contextlib
import dataclasses
import difflib
import os
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from absl import logging
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from checks import known_sets
from hub_export import digits
from hub_export import errors
from hub_export import labels
from hub_export import program

# Examples in splits whose size is known; another number means a data set
# prepared from an incomplete archive, whose labels are then wrong as well
# (TFDS gives imagenet2012's by rank in the archive).
KNOWN_SIZES = {(known.name, split): count for known in known_sets.KNOWN_SETS
               for split, count in known.num_examples.items()}

_NOT_IN_TFDS = {labels.OWN: "one of its own, without a name",
                "imagenet12k": "ImageNet-12k"}
_SYNSET = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"\d{1,6}")
# TFDS' names: of the data set, its configuration, version and arguments.
_NAME = re.compile(r"[A-Za-z_]\w*(/[\w.+-]+)?(:[\d*]+(\.[\d*]+){2})?"
                   r"(/\w+=[^/]*)?")
# How TFDS 4.9.10 says that a data set has no such configuration or version.
_UNKNOWN = re.compile(r"BuilderConfig \S+ not found|"
                      r"cannot be loaded at version [^,]+, only: .+[^.]")
# What tfds.ImageFolder reads, and what directories have beside their content.
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_SHOWN = 5  # Of a list in a message.


@dataclasses.dataclass(frozen=True)
class ClassMap:
  """The numbers that a model has for a data set's classes."""
  to_model: np.ndarray        # int32 [data set's classes]; -1 for classes that
                              # the data set has no image of.
  allowed: np.ndarray | None  # bool [model's classes], those that the data set
                              # has images of; None if it has of all.


class _Source(Protocol):
  """Where a split is read from."""

  def read(self, start: int, stop: int) -> tf.data.Dataset:
    """Returns examples `start` to `stop` (not included) in stored order."""

  def files(self) -> list[os.PathLike[str]]:
    """Returns the files of the split."""


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
  """One split of a data set that is ready to be read."""
  name: str                     # As in TFDS, with its configuration, such as
                                # "imagenet_v2/topimages"; "folder:NAME" for a
                                # folder, without the directories above.
  title: str                    # For people.
  version: str                  # TFDS' version, such as "5.1.0".
  split: str                    # Such as "validation".
  num_examples: int             # As recorded on preparing.
  class_names: tuple[str, ...]  # For people, in label order.
  synsets: tuple[str, ...] | None  # WordNet ids in label order, if known.
  occurring: frozenset[int] | None  # Classes with images, if not all.
  path: pathlib.Path            # Where it is kept.
  source: _Source = dataclasses.field(repr=False)

  def examples(self, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """Returns the examples of a shard, each once, in stored order.

    Only the shard's part of the files is read, up to the examples that lie
    before it in its first file.

    Args:
      shard: Its index, and the number of shards. All shards together have
        every example once; some are empty where there are too many.

    Returns:
      Elements are dicts: "image" string, the encoded file; "labels" int64 [m],
      the right classes in the data set's numbers, one but for ReaL labels,
      which may be none or several; "file_name" string, unlike for each
      example. Reading a label that is no class of the data set is an
      InvalidArgumentError.

    Raises:
      ValueError: if there is no such shard.
    """
    index, count = shard
    if not 0 <= index < count:
      raise ValueError(f"there is no shard {index} of {count}; expected 0 to "
                       f"{count - 1}")
    start = self.num_examples * index // count
    stop = self.num_examples * (index + 1) // count
    if start == stop:
      return self.examples().take(0)
    expected = np.zeros(len(self.class_names), bool)
    expected[list(self.occurring) if self.occurring is not None else ...] = True

    def checked(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      found = example["labels"]
      in_range = (found >= 0) & (found < len(expected))
      is_class = tf.gather(expected, tf.where(in_range, found, 0)) & in_range
      check = tf.debugging.Assert(tf.reduce_all(is_class), [
          "not classes of the data set:", found, "of", example["file_name"]])
      with tf.control_dependencies([check]):
        return dict(example, labels=tf.identity(found))

    return self.source.read(start, stop).map(checked)

  def class_map(self, dataset: str, classes: Sequence[str]) -> ClassMap:
    """Returns a model's numbers for the data set's classes.

    By WordNet id where both sides have them, otherwise by name; classes that
    are called by numbers are the model's of these numbers.

    Args:
      dataset: What the model was trained on, from its manifest.
      classes: Its class names, in the order of its outputs.

    Raises:
      HubExportError: if the model lacks a class.
    """
    ours, theirs = self.class_names, tuple(classes)
    model_synsets = _synsets_of_model(dataset, theirs)
    if self.synsets and model_synsets:
      ours, theirs = self.synsets, model_synsets
    numbers = {name: i for i, name in enumerate(theirs)}
    if self._is_numbered(len(theirs)) and not set(ours) <= set(numbers):
      numbers = {name: int(name) for name in ours if int(name) < len(theirs)}
    wanted = self.occurring if self.occurring is not None else range(len(ours))
    lacking = [i for i in sorted(wanted) if ours[i] not in numbers]
    if lacking:
      shown = [f"{ours[i]} ({self.class_names[i]})"
               if ours[i] != self.class_names[i] else ours[i]
               for i in lacking[:_SHOWN]]
      more = len(lacking) - len(shown)
      raise errors.HubExportError(
          f"the export's classes are not those of {self.name}: of "
          f"{len(wanted)} it lacks {len(lacking)}, {', '.join(shown)}"
          f"{f' and {more} more' if more else ''}; it has {len(theirs)} "
          f"({', '.join(theirs[:3])}, ...). Choose a data set with the "
          "export's classes.")
    to_model = np.full(len(ours), -1, np.int32)
    for i in wanted:
      to_model[i] = numbers[ours[i]]
    allowed = np.zeros(len(theirs), bool)
    allowed[to_model[to_model >= 0]] = True
    return ClassMap(to_model, None if allowed.all() else allowed)

  def num_bytes(self) -> int:
    """Returns the size of the split's files."""
    return sum(os.stat(path).st_size for path in self.source.files())

  def _is_numbered(self, num_classes: int) -> bool:
    """Returns whether class names are a model's numbers.

    A folder may lack some of them; a data set of TFDS without names has to
    have as many classes as the model.
    """
    return (all(_NUMBER.fullmatch(name) for name in self.class_names)
            and (self.name.startswith(known_sets.FOLDER)
                 or len(self.class_names) == num_classes))


def open(name: str, split: str,  # pylint: disable=redefined-builtin
         data_dir: pathlib.Path | None = None) -> EvaluationSet:
  """Returns a split of a data set that is ready on this machine.

  Args:
    name: TFDS' name, with a configuration and version if wanted;
      "optical_digits"; or "folder:PATH" for images in
      PATH/<split>/<class>/*.jpg, as tfds.ImageFolder reads them, where classes
      are called by WordNet ids, by class names or by a model's numbers.
    split: The split's name.
    data_dir: TFDS' directory of data sets; by default TFDS' own default, and
      for the embedded digits one in the cache.

  Raises:
    UnavailableError: if the data set is not prepared there.
    UsageError: if there is no such data set or split.
    HubExportError: if it is damaged, incomplete or not one of images and
      labels.
  """
  if name.startswith(known_sets.FOLDER):
    return _open_folder(_folder_path(name), split)
  if name in _NOT_IN_TFDS:
    raise errors.UnavailableError(
        f"the export's data set is {_NOT_IN_TFDS[name]}, which TensorFlow "
        "Datasets does not have; if you have one with the same classes, name "
        "it with --dataset and --split")
  known = known_sets.find(name)
  # Its splits are known even where it is not prepared.
  if known and split not in known.num_examples:
    raise errors.UsageError(
        f"the data set {name} has no split {split!r} with labels; expected one "
        f"of {', '.join(sorted(known.num_examples))}")
  builder = prepared_builder(name, data_dir)
  splits = builder.info.splits
  if split not in splits:
    if known:
      raise _unavailable(builder, f"is there without the split {split!r}; to "
                         f"have it, remove {builder.data_path}")
    raise errors.UsageError(
        f"the data set {name} in {builder.data_path} has no split {split!r}; "
        f"expected one of {', '.join(sorted(splits))}")
  label = _label_feature(name, builder.info.features)
  source = _Prepared(builder, split)
  full_name = _full_name(builder)
  num_examples = splits[split].num_examples
  expected = KNOWN_SIZES.get((full_name, split), num_examples)
  if num_examples != expected or not num_examples:
    raise errors.HubExportError(
        f"{full_name}/{split} in {builder.data_path} has {num_examples:,} "
        f"examples; expected {expected or 'some':,}. It was prepared from an "
        "incomplete archive; remove the directory and prepare it again from "
        "the whole one.")
  source.check()
  stored = tuple(label.names)
  synsets = stored if all(map(_SYNSET.fullmatch, stored)) else None
  with_images = labels.occurring_synsets(builder.name)
  return EvaluationSet(
      name=full_name, title=known.title if known else full_name,
      version=str(builder.version), split=split, num_examples=num_examples,
      class_names=_names_of_synsets(synsets) if synsets else stored,
      synsets=synsets,
      occurring=None if with_images is None else frozenset(
          i for i, synset in enumerate(stored) if synset in with_images),
      path=pathlib.Path(builder.data_path), source=source)


def splits_of(name: str, data_dir: pathlib.Path | None = None
              ) -> tuple[str, ...]:
  """Returns the splits of a data set that are ready on this machine.

  Args:
    name: As for `open`.
    data_dir: As for `open`.

  Raises:
    As `open`.
  """
  if name.startswith(known_sets.FOLDER):
    return tuple(_directories(_folder_path(name)))
  return tuple(sorted(prepared_builder(name, data_dir).info.splits))


def tfds_builder(name: str, data_dir: pathlib.Path | None = None
                 ) -> tfds.core.DatasetBuilder:
  """Returns TFDS' builder of a data set, prepared or not.

  Args:
    name: TFDS' name.
    data_dir: TFDS' directory of data sets; None for TFDS' own default.

  Raises:
    UsageError: if there is no such data set.
    HubExportError: if it is there, and damaged.
  """
  # TFDS would ask the network for names such as "huggingface:mnist".
  if not _NAME.fullmatch(name):
    raise errors.UsageError(
        f"{name!r} is no name of a data set; expected one such as "
        "imagenet2012, imagenet_v2/topimages, imagenet2012:5.1.0 or "
        f"{known_sets.FOLDER}PATH. See //checks:datasets.")
  family = known_sets.family(name)
  if family and known_sets.find(name) is None:
    raise errors.UsageError(
        f"there is no data set {name!r}; expected one of {', '.join(family)}")
  try:
    return tfds.builder(name, data_dir=data_dir, try_gcs=False)
  except tfds.core.DatasetNotFoundError as e:
    near = difflib.get_close_matches(
        name, [known.name for known in known_sets.KNOWN_SETS])
    raise errors.UsageError(
        f"TensorFlow Datasets has no data set {name!r}; expected a name such "
        f"as {', '.join(near or ['imagenet2012'])}, optical_digits, or "
        f"{known_sets.FOLDER}PATH. See "
        "https://www.tensorflow.org/datasets/catalog.") from e
  except Exception as e:  # TFDS reads JSON and protos, each with own errors.
    if found := _UNKNOWN.search(str(e)):
      raise errors.UsageError(
          f"TensorFlow Datasets has no data set {name!r} ({found[0]}); "
          "expected another configuration or version. See "
          "https://www.tensorflow.org/datasets/catalog.") from e
    raise errors.HubExportError(
        f"the data set {name!r} cannot be opened ({e}); expected one prepared "
        "by TensorFlow Datasets. Remove its directory and prepare it "
        "again.") from e


def prepared_builder(name: str, data_dir: pathlib.Path | None = None
                     ) -> tfds.core.DatasetBuilder:
  """Returns TFDS' builder of a data set that is prepared.

  Args:
    name: TFDS' name, or "optical_digits", which is prepared now.
    data_dir: As for `open`.

  Raises:
    UnavailableError: if it is not prepared there.
    UsageError: if there is no such data set.
    HubExportError: if it is damaged.
  """
  if name == digits.NAME:
    return digits.prepare(data_dir)
  builder = tfds_builder(name, data_dir)
  if not is_prepared(builder):
    raise _unavailable(builder, "is not there")
  return builder


def is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
  """Returns whether a builder's data set is prepared."""
  # TFDS would log a warning where there is no directory.
  return builder.data_path.exists() and builder.is_prepared()


def prepare_command(name: str, data_dir: os.PathLike[str]) -> str:
  """Returns the command that prepares a data set in a directory of TFDS'."""
  return (f"{program.command('//checks:datasets')} "
          f"--dataset={shlex.quote(name)} "
          f"--data_dir={shlex.quote(os.fspath(data_dir))} --prepare")


def _unavailable(builder: tfds.core.DatasetBuilder, fault: str
                 ) -> errors.UnavailableError:
  """Returns the error that says how to prepare a data set."""
  name = _full_name(builder)
  root = pathlib.Path(builder.data_dir_root)
  known = known_sets.find(name)
  command = prepare_command(name, root)
  manual_dir = root / "downloads" / "manual"
  lines = (known_sets.instructions(known, manual_dir, command) if known else
           ["run this; it may download a lot:", f"   {command}"])
  return errors.UnavailableError("\n".join([
      f"the data set {name} {fault} (looked in {root}). Prepare it once:",
      *(f"  {line}" for line in lines),
      "  Is it somewhere else? Name TFDS' directory with --data_dir."]))


@dataclasses.dataclass(frozen=True)
class _Prepared:
  """A split that TFDS has prepared."""
  builder: tfds.core.DatasetBuilder
  split: str

  def read(self, start: int, stop: int) -> tf.data.Dataset:
    features = self.builder.info.features
    label = "label" if "label" in features else "real_label"
    # Where a data set stores no names, TFDS' own key of the example is one.
    key = "file_name" if "file_name" in features else "tfds_id"
    with _without_dtype_warnings():
      dataset = self.builder.as_dataset(
          split=f"{self.split}[{start}:{stop}]", shuffle_files=False,
          decoders=tfds.decode.PartialDecoding(
              {f: True for f in ("image", label, key) if f in features},
              decoders={"image": tfds.decode.SkipDecoding()}),
          read_config=tfds.ReadConfig(add_tfds_id=True))
    return dataset.map(lambda e: {
        "image": e["image"], "labels": tf.reshape(e[label], [-1]),
        "file_name": e[key]})

  def files(self) -> list[os.PathLike[str]]:
    return list(self.builder.info.splits[self.split].filepaths)

  def check(self) -> None:
    """Raises HubExportError if files are missing or cut short."""
    missing = [p for p in self.files() if not os.path.isfile(p)]
    recorded = self.builder.info.splits[self.split].num_bytes
    fault = ""
    if missing:
      fault = f"lacks {len(missing)} files, such as {missing[0]}"
    else:
      # What is recorded is the size of the examples; files have more to hold.
      found = sum(os.stat(p).st_size for p in self.files())
      if found < recorded:
        fault = f"has {found:,} bytes of {recorded:,}"
    if fault:
      raise errors.HubExportError(
          f"{_full_name(self.builder)}/{self.split} in "
          f"{self.builder.data_path} {fault}; expected it as it was prepared. "
          "Remove the directory and prepare it again.")


@contextlib.contextmanager
def _without_dtype_warnings() -> Iterator[None]:
  """Keeps one warning of TFDS 4.9.10 about itself off the log.

  PartialDecoding reads `FeatureConnector.dtype`, which TFDS calls deprecated.
  """
  def is_other(record) -> bool:
    return "`FeatureConnector.dtype` is deprecated" not in record.getMessage()

  logger = logging.get_absl_logger()
  logger.addFilter(is_other)
  try:
    yield
  finally:
    logger.removeFilter(is_other)


@dataclasses.dataclass(frozen=True)
class _Folder:
  """A split in a directory of images."""
  directory: pathlib.Path            # Of the split.
  images: tuple[tuple[str, int], ...]  # ("class/name", class), sorted.

  def read(self, start: int, stop: int) -> tf.data.Dataset:
    names, classes = zip(*self.images[start:stop])
    dataset = tf.data.Dataset.from_tensor_slices(
        (list(names), np.array(classes, np.int64)))
    directory = f"{self.directory}/"
    return dataset.map(
        lambda name, label: {"image": tf.io.read_file(directory + name),
                             "labels": label[None], "file_name": name},
        num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

  def files(self) -> list[os.PathLike[str]]:
    return [self.directory / name for name, _ in self.images]


def _folder_path(name: str) -> pathlib.Path:
  """Returns the directory of a "folder:PATH"."""
  path = program.user_path(name.removeprefix(known_sets.FOLDER))
  if not path.is_dir():
    raise errors.UnavailableError(
        f"there is no directory {path}; expected {known_sets.FOLDER}PATH with "
        "images in PATH/<split>/<class>/*.jpg")
  return path


def _open_folder(path: pathlib.Path, split: str) -> EvaluationSet:
  """Returns a split of a directory of images."""
  name = known_sets.FOLDER + path.name
  splits = _directories(path)
  if split not in splits:
    raise errors.UsageError(
        f"the folder {path} has no split {split!r}; expected one of "
        f"{', '.join(splits[:_SHOWN]) or 'its directories'}, or images in "
        "<split>/<class>/*.jpg below the folder. Choose it with --split.")
  # As in tfds.ImageFolder, classes are those of all splits.
  folders = sorted({c for s in splits for c in _directories(path / s)})
  if all(map(_NUMBER.fullmatch, folders)):
    folders.sort(key=int)  # Of "10" and "9", "9" is first.
    if len(set(map(int, folders))) < len(folders):
      raise errors.HubExportError(
          f"the folder {path} has a class twice, as {', '.join(folders[:2])}, "
          "...; expected each number once")
  images, problems = [], []
  for i, folder in enumerate(folders):
    if not (path / split / folder).is_dir():
      continue
    for entry in os.scandir(path / split / folder):
      if entry.name.startswith("."):
        continue
      relative = f"{folder}/{entry.name}"
      if (entry.is_file() and entry.name.isprintable()
          and entry.name.lower().endswith(_IMAGE_SUFFIXES)):
        images.append((relative, i))
      else:
        problems.append(relative)
  if problems:
    raise errors.HubExportError(errors.join_problems(
        f"the folder {path / split} has what is not an image",
        [repr(p) for p in sorted(problems)[:_SHOWN]],
        f"{len(problems)} in all; expected only {', '.join(_IMAGE_SUFFIXES)} "
        "in the classes' folders. Convert or remove them."))
  if not images:
    raise errors.HubExportError(
        f"the folder {path / split} has no images; expected them in "
        f"{path / split}/<class>/*.jpg")
  synsets = (tuple(folders) if all(map(_SYNSET.fullmatch, folders)) else None)
  return EvaluationSet(
      name=name, title=f"the image folder {path.name}", version="unversioned",
      split=split, num_examples=len(images),
      class_names=_names_of_synsets(synsets) if synsets else tuple(folders),
      synsets=synsets, occurring=None, path=path,
      source=_Folder(path / split, tuple(sorted(images))))


def _directories(path: pathlib.Path) -> list[str]:
  """Returns the names of the directories in a directory, sorted."""
  try:
    return sorted(e.name for e in os.scandir(path)
                  if e.is_dir() and not e.name.startswith("."))
  except OSError as e:
    raise errors.HubExportError(
        f"{path} cannot be read ({e.strerror}); expected a directory of "
        "images. Change its permissions.") from e


def _full_name(builder: tfds.core.DatasetBuilder) -> str:
  config = builder.builder_config
  return f"{builder.name}/{config.name}" if config else builder.name


def _label_feature(name: str, features: Any) -> tfds.features.ClassLabel:
  """Returns the feature that has the classes.

  Raises:
    HubExportError: unless a data set has images, as files, and classes.
  """
  keys = set(features) if hasattr(features, "keys") else set()
  label = None
  if "label" in keys:
    label = features["label"]
  elif "real_label" in keys:
    label = getattr(features["real_label"], "feature", None)
  if not (isinstance(label, tfds.features.ClassLabel)
          and "image" in keys
          and isinstance(features["image"], tfds.features.Image)
          and features["image"].np_dtype == np.uint8):
    raise errors.HubExportError(
        f"the data set {name} has the features {features}; expected an "
        "\"image\" of bytes and a class \"label\". Choose a data set of "
        "labelled images.")
  return label


def _names_of_synsets(synsets: Sequence[str]) -> tuple[str, ...]:
  """Returns names for people; a synset that has none stands for itself."""
  table = {}
  for dataset in ("imagenet12k", "imagenet2012"):
    table |= zip(labels.synsets(dataset), labels.names(dataset))
  return tuple(table.get(synset, synset) for synset in synsets)


def _synsets_of_model(dataset: str, classes: tuple[str, ...]
                      ) -> tuple[str, ...] | None:
  """Returns the WordNet ids of a model's classes, None if they are not known.

  A manifest may name ImageNet, and the classes be others or in another order:
  then they go by name.
  """
  if all(map(_SYNSET.fullmatch, classes)):
    return classes
  if (labels.known(dataset) and dataset != digits.NAME
      and classes == labels.names(dataset)):
    return labels.synsets(dataset)
  return None
