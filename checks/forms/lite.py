"""The checks of the Lite form: one .tflite file, run by LiteRT."""

import statistics
import time
from typing import Any

import numpy as np
import tensorflow as tf

from checks import accuracy
from checks import listed
from checks import numerics
from checks import pixels
from checks import report
from checks import structure
from checks import subject as subject_lib
from checks.forms import siblings
from hub_export import errors
from hub_export import export_dirs
from hub_export.forms import lite
from hub_export.forms import lite_metadata
from hub_export.forms import tflite_file

# Bytes of one weight, and what may come on top: names, shapes, ranges, labels.
_WEIGHT_BYTES = {"float32": 4, "fp16": 2, "dynamic": 1, "int8": 1}
# Scales by channel, biases of 32 bits and small tensors that stay as they were.
_SIZE_FACTOR = {"float32": 1.01, "fp16": 1.02, "dynamic": 1.15, "int8": 1.15}
_FIXED_BYTES = 400_000
_KERNELS = {"float32": "FLOAT32", "fp16": "FLOAT16", "dynamic": "INT8",
            "int8": "INT8"}
_FEW = {"dynamic": 1024}  # Elements; TFLiteConverter leaves smaller ones alone.
_TIMED_CALLS, _WARM_UP_CALLS = 20, 3
# Between batches and numbers of threads nothing was seen to differ, whatever the
# quantization loses; this is room for a few roundings the other way.
_SAME = 0.01
_STATEFUL = ("VAR_HANDLE", "ASSIGN_VARIABLE", "READ_VARIABLE")
# Operators beside XNNPACK's part of the graph: uint8 pixels become int8 ones.
_OUTSIDE = {"int8": {"QUANTIZE"}}


def files(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the model and what belongs to it is there, and no more."""
  return structure.only(subject, (
      lite.FILE, str(export_dirs.MANIFEST), str(export_dirs.GOLDEN)))


def signature(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks names, types and shapes of input and output."""
  runner = subject.model.runner
  problems = []
  found = runner.interpreter.get_signature_list()
  expected = {tflite_file.SIGNATURE: {"inputs": ["images"],
                                      "outputs": [subject.output]}}
  if found != expected:
    problems.append(f"signatures are {found}, expected {expected}")
  dtype = np.dtype(subject.manifest["inputs"]["dtype"])
  size = subject.preprocessing.crop_px
  # As a fresh interpreter has it: this one may have been resized.
  fresh = lite.Runner(subject.model.content)
  for detail, kind, shape, free in (
      (fresh.input, dtype, [1, size, size, 3], [-1, -1, -1, 3]),
      (fresh.output, np.dtype(np.float32), [1, subject.output_size],
       [-1, subject.output_size])):
    if np.dtype(detail["dtype"]) != kind:
      problems.append(f"{detail['name']} is {np.dtype(detail['dtype'])}, "
                      f"expected {kind}")
    for key, wanted in (("shape", shape), ("shape_signature", free)):
      if detail[key].tolist() != wanted:
        problems.append(f"the {key} of {detail['name']} is "
                        f"{detail[key].tolist()}, expected {wanted}")
  scale, zero = fresh.input["quantization"]
  if dtype == np.uint8 and (zero or not np.isclose(scale, 1 / 255, 1e-5)):
    problems.append(f"a step of the input is {scale} from {zero}; expected "
                    "that of pixels, 1/255 from 0")
  return report.from_problems(
      problems, f"{dtype} images {size} x {size}, one at a time unless resized")


def metadata(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the metadata inside, and the labels behind it."""
  content = subject.model.content
  stored = tflite_file.metadata(tflite_file.load(content))
  if stored is None:
    return report.failed("there is no metadata inside; expected a buffer "
                         f"called {lite_metadata.BUFFER}")
  seen = _described(lite_metadata.decode(stored))
  size = subject.preprocessing.crop_px
  expected = {
      "name": subject.manifest["handle"].split("/")[1],
      "licence": subject.manifest["licence"]["id"],
      "image size": {"width": size, "height": size},
      "colour space": lite_metadata.RGB,
      "normalisation": [{"mean": [0.0], "std": [255.0]}],
      "largest input": [float(subject.manifest["inputs"]["range"][1])],
      "output": subject.output,
      "files of the output":
          [lite_metadata.LABELS] if subject.is_classifier else [],
  }
  problems = [f"{what} is {seen[what]!r}, expected {wanted!r}"
              for what, wanted in expected.items() if seen[what] != wanted]
  inside = lite_metadata.read_files(content)
  files_wanted = {}
  if subject.is_classifier:
    files_wanted[lite_metadata.LABELS] = (
        subject.export_dir / export_dirs.LABELS).read_bytes()
  if set(inside) != set(files_wanted):
    problems.append(f"the files inside are {sorted(inside)}, expected "
                    f"{sorted(files_wanted)}")
  elif inside != files_wanted:
    problems.append(f"{lite_metadata.LABELS} inside differs from "
                    f"{export_dirs.LABELS}; expected the same classes in the "
                    "same order")
  return report.from_problems(problems, "metadata and labels inside the model"
                              if subject.is_classifier else "metadata inside")


def _described(metadata: dict[str, Any]) -> dict[str, Any]:
  """Returns what of the metadata is checked, by names for people.

  Raises:
    HubExportError: if it is not of one image and one output.
  """
  try:
    graph, = metadata["subgraph_metadata"]
    taken, = graph["input_tensor_metadata"]
    given, = graph["output_tensor_metadata"]
    _, image = taken["content"]["content_properties"]
    return {
        "name": metadata["name"], "licence": metadata["license"],
        "image size": image["default_size"],
        "colour space": image["color_space"],
        "normalisation": [options for _, options in (
            unit["options"] for unit in taken["process_units"])],
        "largest input": taken["stats"]["max"], "output": given["name"],
        "files of the output": [
            f["name"] for f in given.get("associated_files", ())
            if f.get("type") == lite_metadata.TENSOR_AXIS_LABELS],
    }
  except (KeyError, ValueError) as e:
    raise errors.HubExportError(
        f"the metadata inside is not whole ({type(e).__name__}: {e}); expected "
        "that of one image and one output. Export the checkpoint again.") from e


def operators(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that every interpreter can run it, and XNNPACK all of it."""
  custom = tflite_file.custom_operators(
      tflite_file.load(subject.model.content))
  problems = [f"{name} is no built-in operator" for name in custom]
  allowed = _OUTSIDE.get(subject.manifest["quantization"], set())
  left = lite.Runner(subject.model.content).left_out()
  problems += [f"{name} is not run by XNNPACK"
               for name in sorted(set(left) - allowed)]
  return report.from_problems(
      problems, "XNNPACK runs " + (f"all but {', '.join(left)}" if left
                                   else "all operators"))


def constant(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that nothing in the model can change.

  It stands for the group of trainability, without which nothing is published.
  """
  model = tflite_file.load(subject.model.content)
  problems = [f"the tensor {tensor.name.decode()} is a variable"
              for graph in model.subgraphs for tensor in graph.tensors
              if tensor.isVariable]
  problems += [f"{o['op_name']} keeps a state"
               for o in subject.model.runner.interpreter._get_ops_details()  # pylint: disable=protected-access
               if o["op_name"] in _STATEFUL]
  return report.from_problems(problems, "no variables: for inference alone")


def weights(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the kernels are kept as the quantization says.

  Of 8 bits, those of convolutions are scaled by output channel.
  """
  quantization = subject.manifest["quantization"]
  kind, few = _KERNELS[quantization], _FEW.get(quantization, 0)
  problems, seen = [], 0
  for operator, tensor in tflite_file.kernels(
      tflite_file.load(subject.model.content)):
    shape = tensor.shape.tolist()
    if np.prod(shape) < few:
      continue
    seen += 1
    name = f"the kernel {shape} of {operator}"
    found = tflite_file.type_name(tensor)
    if found != kind:
      problems.append(f"{name} is {found}, expected {kind}")
    elif kind == "INT8" and operator == "CONV_2D" and (
        len(tensor.quantization.scale) != shape[0]):
      problems.append(f"{name} has {len(tensor.quantization.scale)} scales, "
                      f"expected one for each of {shape[0]} channels")
  if not seen:
    problems.append("there is no kernel")
  return report.from_problems(problems, f"{seen} kernels of {kind}",
                              kernels=seen)


def size(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks the file's size against that of the weights."""
  num_bytes = (subject.export_dir / lite.FILE).stat().st_size
  quantization = subject.manifest["quantization"]
  weights = (subject.manifest["parameters"]["total"]
             * _WEIGHT_BYTES[quantization])
  most = round(weights * _SIZE_FACTOR[quantization]) + _FIXED_BYTES
  return report.from_problems(
      [f"it has {num_bytes:,} bytes; expected at most {most:,} for "
       f"{weights:,} bytes of weights"] if num_bytes > most else [],
      f"{num_bytes:,} bytes, {num_bytes / weights:.3f} of the weights'",
      bytes=num_bytes, weights_bytes=weights)


def threads(subject: subject_lib.Subject) -> report.CheckResult:
  """Times one image with one thread and with several; they have to agree."""
  size_px = subject.preprocessing.crop_px
  image = subject_lib.probe_images(1, size_px, size_px)
  figures: dict[str, Any] = {}
  outputs = []
  for name, count in (("one_thread_ms", 1), ("four_threads_ms", 4)):
    runner = lite.Runner(subject.model.content, count)
    seconds = []
    for _ in range(_WARM_UP_CALLS + _TIMED_CALLS):
      begin = time.perf_counter()
      found = runner(image)
      seconds.append(time.perf_counter() - begin)
    outputs.append(found)
    figures[name] = round(
        1e3 * statistics.median(seconds[_WARM_UP_CALLS:]), 3)
  off = subject_lib.difference(outputs[1], outputs[0])
  return report.from_problems(
      [f"with four threads outputs differ by {off:.1e} standard deviations"]
      if off > _same(subject) else [],
      f"one image takes {figures['one_thread_ms']} ms with one thread, "
      f"{figures['four_threads_ms']} ms with four", **figures)


def batch_sizes(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that an image's output does not depend on its company."""
  return numerics.batch_sizes(subject, _same(subject))


def repeatable(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that the same images give the same outputs, others not."""
  return numerics.repeatable(subject, _same(subject))


def _same(subject: subject_lib.Subject) -> float:
  """Returns what the same file may differ by from itself."""
  return min(subject.tolerance, _SAME)


def calibration(subject: subject_lib.Subject) -> report.CheckResult:
  """Checks that what is quantised beforehand says on which images."""
  record = subject.manifest["lite"]["calibration"]
  if subject.manifest["quantization"] != "int8":
    return report.from_problems(
        ["the manifest tells of a calibration, which only int8 has"]
        if record else [], "none is needed")
  if not record or not record.get("examples"):
    return report.failed("the manifest does not say what it was calibrated on")
  problems = []
  # Of what is evaluated, it would know too much.
  if record["source"] == f"{subject.dataset}/{subject.split}":
    problems.append(f"it was calibrated on {record['source']}, which it is "
                    "evaluated on")
  return report.from_problems(
      problems, f"{record['examples']} images of {record['source']}")


def agreement(subject: subject_lib.Subject, evaluation: accuracy.Evaluated
              ) -> report.CheckResult:
  """Checks outputs on examples of the split against those of a SavedModel.

  Where ranges were measured on images unlike these, that cuts off activations
  here and not on golden images, which are among those of the calibration. So of
  what is calibrated this comparison cannot be left out.
  """
  del evaluation  # As the other checks.
  if (subject.manifest["lite"]["calibration"]
      and not siblings.has_saved_model(subject)):
    return report.not_run(
        "no SavedModel of these weights lies in the same output directory; "
        "expected one to compare with. Export the main form with the same "
        "--output_dir and check again.")
  _, encoded = accuracy.samples(subject)
  return siblings.saved_model(subject, np.stack([
      subject.preprocessing.apply(tf.constant(file)).numpy()
      for file in encoded]))


CHECKS = (
    listed.Check("structure", "files", files),
    listed.Check("structure", "hashes", structure.hashes),
    listed.Check("structure", "manifest", structure.manifest),
    listed.Check("structure", "signature", signature),
    listed.Check("structure", "metadata", metadata),
    listed.Check("structure", "operators", operators),
    listed.Check("structure", "labels", structure.labels),
    listed.Check("structure", "weights", weights),
    listed.Check("structure", "size", size),
    listed.Check("structure", "calibration", calibration),
    listed.Check("numerics", "golden", numerics.golden),
    listed.Check("numerics", "batch_sizes", batch_sizes),
    listed.Check("numerics", "image_sizes", numerics.image_sizes),
    listed.Check("numerics", "repeatable", repeatable),
    listed.Check("numerics", "preprocessing", pixels.preprocessing),
    listed.Check("numerics", "threads", threads),
    listed.Check("trainability", "constant", constant),
    listed.Check("accuracy", "counting", accuracy.counting),
    listed.Check("accuracy", "top1", accuracy.top1),
    listed.Check("accuracy", "top5", accuracy.top5),
    listed.Check("accuracy", "loss", accuracy.loss),
    listed.Check("accuracy", "agreement", agreement),
    listed.Check("accuracy", "earlier", accuracy.earlier),
    listed.Check("accuracy", "expected", accuracy.expected_top1),
    listed.Check("accuracy", "same_as_classifier", accuracy.same_as_classifier,
                 kinds=("feature_extractor",)),
)
