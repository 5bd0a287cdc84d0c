r"""Measures predictions: our exports beside what users would pick instead.

  bazel run //benchmarks:inference
  bazel run //benchmarks:inference -- --variant=1.6gf --batch_sizes=1,32
  bazel run //benchmarks:inference -- --contestants=main,tf_keras,onnxruntime \
      --output_dir=results

Exports one set of weights in every form and gives the same weights to
tf_keras.applications, and, where they are installed (//benchmarks:peers), to
timm, ONNX Runtime, OpenVINO and LiteRT. Each runs in a process of its own with
as many threads; outputs are compared before anything is timed. All have a turn
in each round, so that ratios hold even as the machine changes. Rounds in which
others used the machine are held again. Contestants are main, portable,
serving_float32, serving_bf16, lite_float32, lite_fp16, lite_dynamic, lite_int8,
onnx; tf_keras, tf_keras_saved_model, timm, onnxruntime, openvino_float32 and
openvino_bf16. Images lie ready in each runtime's own layout, and a call ends
when its outputs are there. int8 is calibrated on these images. To export the
form onnx takes //benchmarks:inference_forms in place of //benchmarks:inference.

Exit status: 0 done, 1 something about the input or the machine, 2 wrong usage.
A target that is not reached, or a peer that is not installed, is no error.
"""

from collections.abc import Sequence

from absl import flags

from benchmarks import contest_program
from benchmarks import contestants
from benchmarks import options
from benchmarks import preparation
from benchmarks import pythons
from benchmarks import targets
from hub_export import errors
from hub_export import program
from hub_export.regnet import variants

flags.adopt_module_key_flags(options)
flags.adopt_module_key_flags(contest_program)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1", "8", "32"],
                                 "Images per call.")
_EXPORT_DIR = flags.DEFINE_multi_string(
    "export_dir", [],
    "Directory of one module's version, of the weights in --checkpoint, that "
    "takes part instead of one made here; may be given several times.")
_TURN_SECONDS = flags.DEFINE_float(
    "turn_seconds", 0.5, "What a contestant's turn takes at least.", 0)


def main(_: Sequence[str]) -> int:
  size_px = options.IMAGE_SIZE.value
  sizes = batch_sizes(_BATCH_SIZES.value)
  chosen = contestants.chosen(contestants.INFERENCE,
                              contest_program.CONTESTANTS.value)
  variant = variants.by_name(options.VARIANT.value)
  if _EXPORT_DIR.value and not options.CHECKPOINT.value:
    raise errors.UsageError(
        "--export_dir without --checkpoint: the peers need its weights; give "
        "the directory of its main form, or its file, as --checkpoint")
  with preparation.prepared(
      variant.name, options.CHECKPOINT.value, size_px, max(sizes), 0,
      options.WORK_DIR.value, _EXPORT_DIR.value,
      pythons.candidates(options.PEERS_PYTHON.value), _say) as prepared:
    found = contest_program.run(
        contest_program.Plan("infer", chosen, sizes, size_px,
                             targets.INFERENCE, _TURN_SECONDS.value, 3),
        prepared, options.setting(), _say)
  contest_program.finish(
      "inference", f"Inference, {variants.title(variant.name)}, {size_px} x "
      f"{size_px} pixels", "image", found, options.output_dir())
  return 0


def batch_sizes(words: Sequence[str]) -> list[int]:
  """Returns the batch sizes, each once, ascending.

  Raises:
    UsageError: if one is no positive whole number.
  """
  if not words or not all(w.strip().isdecimal() and int(w) for w in words):
    raise errors.UsageError(
        f"--batch_sizes={','.join(words)}: expected whole numbers from 1 up "
        "with commas between them, such as 1,8,32")
  return sorted({int(w) for w in words})


def _say(text: str) -> None:
  print(text, flush=True)


if __name__ == "__main__":
  program.run(main)
