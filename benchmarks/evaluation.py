r"""Measures how near an evaluation comes to the speed of the model alone.

  bazel run //benchmarks:evaluation
  bazel run //benchmarks:evaluation -- --variant=1.6gf --rounds=7
  bazel run //benchmarks:evaluation -- --images=photos \
      --export_dir=exports/local/regnety600mf_classification/1

Needs nothing: without flags it times a network with random weights on made-up
JPEG files of ImageNet's usual size. In one process, in turn, round by round:

  model       prepared images through the model: no evaluation can be faster
  input       reading, decoding, resizing and batching, as //checks:check does
  evaluation  both, as //checks:check does
  PIL         decoding and resizing with PIL in one thread, for comparison

and prints the medians over the rounds: images per second, and milliseconds of
processor time per image over all threads. A run of one batch is taken off each,
and with it the start, which does not grow with the data set. It also says how
much of the machine others used meanwhile: above a few percent, the figures are
worth little.

Exit status: 0 done, 1 something about the input or the machine, 2 wrong usage.
"""

import contextlib
import copy
import dataclasses
import io
import json
import logging as python_logging
import os
import pathlib
import platform
import statistics
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags
import numpy as np
import PIL.Image
import tqdm

from benchmarks import made_images
from checks import meter
from hub_export import errors
from hub_export import export_dirs
from hub_export import program
from hub_export.regnet import variants

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None,
    "Directory of one module's version, whose model and preprocessing are "
    "measured; by default a network with random weights is.")
_VARIANT = flags.DEFINE_string(
    "variant", "600mf", "Which network, where no --export_dir is given.")
_IMAGES = flags.DEFINE_string(
    "images", None,
    "Directory of JPEG files (*.jpg, *.jpeg, *.JPEG) to read; by default files "
    "are made up.")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 512, "Images per run, rounded up to whole batches and at "
    "least two; files are used again if there are fewer.", 1)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "How often each of the four is run, in turn.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images per step.", 1)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None,
    "Directory to write evaluation.json and evaluation.png to, made if "
    "missing; by default only the table is printed.")

MODEL, INPUT, EVALUATION, BY_PIL = "model", "input", "evaluation", "PIL"
PATHS = (MODEL, INPUT, EVALUATION, BY_PIL)
WANTED_RATIO = 0.9  # Of evaluation to model, in images per second.
_QUIET = 0.05       # Share of the machine; more by others spoils the figures.
_MADE_FILES = 64
# ImageNet's most usual evaluation: 256, then the central 224.
_RESIZE_PX, _CROP_PX = 256, 224
_SUFFIXES = (".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Run:
  """What one run of one of the four took."""
  images_per_second: float
  cpu_ms: float  # Processor time of this process per image, in milliseconds.
  others: float  # Share of the machine that others used, from 0 to 1.


class Images:
  """JPEG files in the shape of a checks.evaluation_sets.EvaluationSet.

  They lie in a TFRecord file, as TFDS keeps them.
  """
  name, split = "benchmark", "test"

  def __init__(self, path: pathlib.Path, files: Sequence[bytes], count: int):
    """Writes `count` examples of the files, over and over if need be."""
    # pylint: disable=g-import-not-at-top
    import tensorflow as tf

    self.path = path
    self.encoded = [files[i % len(files)] for i in range(count)]
    self.num_examples = count
    with tf.io.TFRecordWriter(str(path)) as records:
      for encoded in self.encoded:
        records.write(encoded)

  def first(self, count: int) -> "Images":
    """Returns the set of the `count` first ones."""
    fewer = copy.copy(self)
    fewer.num_examples = count
    return fewer

  def class_map(self, dataset: str, classes: Sequence[str]
                ) -> types.SimpleNamespace:
    """Returns what makes every image one of the model's first class."""
    del dataset, classes
    return types.SimpleNamespace(to_model=np.zeros(1, np.int32), allowed=None)

  def examples(self, shard: tuple[int, int]) -> "tf.data.Dataset":
    """Returns the examples, each once; there is but one shard."""
    # pylint: disable=g-import-not-at-top
    import tensorflow as tf

    del shard

    def example(i, encoded):
      return {"image": encoded, "labels": tf.zeros([1], tf.int64),
              "file_name": tf.strings.as_string(i)}

    records = tf.data.TFRecordDataset(str(self.path)).take(self.num_examples)
    return records.enumerate().map(example)


def measure(run: Callable[[int], None], images: int, start: int) -> Run:
  """Returns what `images` images take, less the `start` first ones.

  Args:
    run: Handles as many images as it is told.
    images: How many.
    start: Fewer; what they take is taken off, as what it takes to begin.
  """
  def taken(count):
    own, busy = meter.own_seconds(), meter.busy_seconds()
    clock = time.perf_counter()
    run(count)
    return np.array([time.perf_counter() - clock, meter.own_seconds() - own,
                     meter.busy_seconds() - busy])

  first, whole = taken(start), taken(images)
  seconds, own, _ = whole - first
  others = meter.others_share(whole[2], whole[1], whole[0], os.cpu_count())
  return Run((images - start) / seconds, 1e3 * own / (images - start),
             float(others))


def summary(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
  """Returns the medians over rounds, and the ratio to the model alone.

  Args:
    runs: For each of PATHS its runs, round by round.

  Returns:
    {"paths": {path: {"images_per_second", "cpu_ms_per_image"}},
    "ratio": the median of the rounds' ratios of evaluation to model,
    "others": the largest share of the machine that others used in a run,
    "is_quiet": whether that is little}.
  """
  ratios = [whole.images_per_second / alone.images_per_second
            for whole, alone in zip(runs[EVALUATION], runs[MODEL], strict=True)]
  others = max(run.others for path in PATHS for run in runs[path])
  return {
      "paths": {path: {
          "images_per_second": statistics.median(
              run.images_per_second for run in runs[path]),
          "cpu_ms_per_image": statistics.median(
              run.cpu_ms for run in runs[path]),
      } for path in PATHS},
      "ratio": statistics.median(ratios),
      "others": others, "is_quiet": others <= _QUIET}


def table(found: Mapping[str, Any]) -> str:
  """Returns a summary as lines for people."""
  lines = ["             images/s   CPU ms/image"]
  for path, figures in found["paths"].items():
    lines.append(f"{path:11}{figures['images_per_second']:10.1f}"
                 f"{figures['cpu_ms_per_image']:15.2f}")
  reached = "reached" if found["ratio"] >= WANTED_RATIO else "not reached"
  lines.append(f"\nevaluation : model = {found['ratio']:.3f} "
               f"({WANTED_RATIO} wanted: {reached})")
  state = "quiet" if found["is_quiet"] else (
      "NOT quiet: measure again when nothing else runs")
  lines.append(f"others used up to {found['others']:.1%} of the machine: "
               f"{state}")
  return "\n".join(lines)


def run_all(predict: Callable[["tf.Tensor"], "tf.Tensor"], prep: Any,
            images: Images, batch_size: int, rounds: int,
            on_run: Callable[[], None] = lambda: None
            ) -> dict[str, list[Run]]:
  """Returns the runs of each of PATHS, interleaved, after one to warm up.

  Args:
    predict: float32 [batch, crop, crop, 3] to one float32 [batch, ...].
    prep: The preprocessing.Preprocessing.
    images: What to read, a multiple of the batch and at least two; a run is
      all of them.
    batch_size: Images per step.
    rounds: Runs of each.
    on_run: Called after each run, warming up included.
  """
  # pylint: disable=g-import-not-at-top
  from checks import evaluation
  import tensorflow as tf

  files = [images.encoded[i % images.num_examples] for i in range(batch_size)]
  prepared = prep.apply_batch(tf.constant(files))
  # Not all the same, which would be refused.
  nothing = tf.random.normal([batch_size, 1000])

  def model(count):
    for _ in range(0, count, batch_size):
      predict(prepared).numpy()

  def evaluate(function, count):
    with tempfile.TemporaryDirectory(prefix="regnety_hub_") as directory:
      evaluation.evaluate(evaluation.Model(
          pathlib.Path(directory, "1"), {"dataset": {"name": "benchmark"}}, (),
          [], prep, function, batch_size), images.first(count))

  def pil(count):
    for encoded in images.encoded[:count]:
      prepared_by_pil(encoded, prep)

  paths = {
      MODEL: model,
      INPUT: lambda count: evaluate(lambda batch: nothing, count),
      EVALUATION: lambda count: evaluate(predict, count),
      BY_PIL: pil}
  runs = {path: [] for path in PATHS}
  for number in range(rounds + 1):
    # Each round begins with another one, so that none always comes first.
    first = number % len(PATHS)
    for path in PATHS[first:] + PATHS[:first]:
      found = measure(paths[path], images.num_examples, batch_size)
      if number:
        runs[path].append(found)
      on_run()
  return runs


def read_files(directory: pathlib.Path, most: int) -> list[bytes]:
  """Returns the first JPEG files below a directory, by name.

  Raises:
    UsageError: if there is none.
  """
  found = sorted(path for path in directory.rglob("*")
                 if path.suffix.lower() in _SUFFIXES and path.is_file())
  if not found:
    raise errors.UsageError(
        f"--images: no JPEG file lies in {directory}; expected some called "
        "*.jpg or *.jpeg. Name their directory, or leave the flag out.")
  return [path.read_bytes() for path in found[:most]]


def whole_batches(num_images: int, batch_size: int) -> int:
  """Returns how many images a run has: whole batches, two or more."""
  return max(-(-num_images // batch_size), 2) * batch_size


def main(_: Sequence[str]) -> int:
  num_images = whole_batches(_NUM_IMAGES.value, _BATCH_SIZE.value)
  if _IMAGES.value:
    files = read_files(program.user_path(_IMAGES.value), num_images)
  else:
    files = made_images.jpegs(min(_MADE_FILES, num_images))
  if _EXPORT_DIR.value:
    export_dirs.read_manifest(program.user_path(_EXPORT_DIR.value))
  variant = variants.by_name(_VARIANT.value)
  warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
  with program.quiet_start():
    # pylint: disable=g-import-not-at-top
    import tensorflow as tf
    import tensorflow_hub as hub
  python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)

  with (_export(variant) as (export_dir, prep, what),
        tempfile.TemporaryDirectory(prefix="regnety_hub_") as scratch):
    model = hub.load(str(export_dir))
    images = Images(pathlib.Path(scratch, "images"), files, num_images)
    with tqdm.tqdm(total=(_ROUNDS.value + 1) * len(PATHS), unit="run",
                   leave=False, disable=None) as bar:
      runs = run_all(model, prep, images, _BATCH_SIZE.value, _ROUNDS.value,
                     bar.update)
  found = summary(runs) | {
      "what": what, "images": num_images, "rounds": _ROUNDS.value,
      "batch_size": _BATCH_SIZE.value, "preprocessing": prep.to_dict(),
      "bytes_per_image": round(statistics.mean(map(len, images.encoded))),
      "environment": {
          "cpus": os.cpu_count(), "machine": platform.machine(),
          "python": platform.python_version(), "tensorflow": tf.__version__},
      "runs": {path: [dataclasses.asdict(run) for run in runs[path]]
               for path in PATHS}}
  print(f"{what}: {_ROUNDS.value} rounds of {num_images} images of "
        f"{found['bytes_per_image'] / 1e3:.0f} kB, batches of "
        f"{_BATCH_SIZE.value}, {os.cpu_count()} processors\n\n{table(found)}")
  if _OUTPUT_DIR.value:
    write(found, program.user_path(_OUTPUT_DIR.value))
  return 0


@contextlib.contextmanager
def _export(variant: variants.Variant
            ) -> Iterator[tuple[pathlib.Path, Any, str]]:
  """Yields what to load, its preprocessing and its name for people."""
  # pylint: disable=g-import-not-at-top
  from hub_export import preprocessing
  if _EXPORT_DIR.value:
    path = program.user_path(_EXPORT_DIR.value)
    manifest = export_dirs.read_manifest(path)
    yield (path, preprocessing.from_dict(manifest["preprocessing"]),
           manifest["handle"])
    return
  prep = preprocessing.Preprocessing(
      (preprocessing.Resize("shorter", _RESIZE_PX, "bicubic", True),), _CROP_PX)
  with tempfile.TemporaryDirectory(prefix="regnety_hub_") as directory:
    _write_random(variant, prep, pathlib.Path(directory))
    yield pathlib.Path(directory), prep, f"{variant.name}, random weights"


def _write_random(variant: variants.Variant, prep: Any,
                  directory: pathlib.Path) -> None:
  """Writes a classifier of 1,000 classes with random weights."""
  # pylint: disable=g-import-not-at-top
  from hub_export import labels
  from hub_export.regnet import modules
  from hub_export.regnet import network
  import tensorflow as tf

  arch = variants.architectures(variant, "keras")[0]
  names = labels.names("imagenet2012")
  net = network.Network(arch, network.initial_tensors(arch, len(names), 0),
                        prep.mean, prep.std)
  root = modules.Classifier(net, names, prep)
  tf.saved_model.save(root, str(directory), signatures=root.trace())


def prepared_by_pil(encoded: bytes, prep: Any) -> np.ndarray:
  """Returns float32 [crop, crop, 3] in [0, 255], as torchvision does by PIL."""
  image = PIL.Image.open(io.BytesIO(encoded)).convert("RGB")
  for resize in prep.resizes:
    short = min(image.size) if resize.mode == "shorter" else None
    new = tuple(resize.size_px * side // (short or side) for side in image.size)
    image = image.resize(
        new, PIL.Image.Resampling[resize.interpolation.upper()])
  left, top = (round((side - prep.crop_px) / 2) for side in image.size)
  image = image.crop((left, top, left + prep.crop_px, top + prep.crop_px))
  return np.asarray(image, np.float32)


def write(found: Mapping[str, Any], output_dir: pathlib.Path) -> None:
  """Writes the figures and a picture of them."""
  export_dirs.write_file(output_dir / "evaluation.json",
                         json.dumps(found, indent=2) + "\n")
  export_dirs.write_file(output_dir / "evaluation.png", picture(found))
  print(f"\n{program.shown_path(output_dir)}: evaluation.json, evaluation.png")


def picture(found: Mapping[str, Any]) -> bytes:
  """Returns a PNG: images per second of each, every run a dot."""
  # pylint: disable=g-import-not-at-top
  from matplotlib import figure

  drawn = figure.Figure(figsize=(7, 3.2), layout="constrained")
  axes = drawn.subplots()
  for row, path in enumerate(PATHS):
    axes.barh(row, found["paths"][path]["images_per_second"], color="#9ecae1")
    rates = [run["images_per_second"] for run in found["runs"][path]]
    axes.plot(rates, [row] * len(rates), ".", color="#08519c")
  axes.set_yticks(range(len(PATHS)), PATHS)
  axes.invert_yaxis()
  axes.set_xscale("log")
  axes.set_xlabel("images per second (bars: medians)")
  axes.set_title(f"{found['what']}: evaluation : model = {found['ratio']:.3f}")
  buffer = io.BytesIO()
  drawn.savefig(buffer, format="png", dpi=120)
  return buffer.getvalue()


if __name__ == "__main__":
  program.run(main)
