r"""Measures a step of fine-tuning beside tf_keras.applications and timm.

  bazel run //benchmarks:finetune
  bazel run //benchmarks:finetune -- --contestants=main,timm --rounds=20

A step is: forward in training mode, cross entropy, gradients of all variables,
SGD. Ours takes it twice: a tf.function around the exported module, and Keras'
own training step around hub.KerasLayer(trainable=True); either in float32 and
in bfloat16, by oneDNN's mixed precision and by the policy mixed_bfloat16. All
begin with the same weights and images; their first loss is compared before
anything is timed. Otherwise as //benchmarks:inference. Contestants are main,
main_bf16, keras_layer, keras_layer_bf16, portable; tf_keras, timm, timm_bf16.

Exit status: 0 done, 1 something about the input or the machine, 2 wrong usage.
"""

from collections.abc import Sequence

from absl import flags

from benchmarks import contest_program
from benchmarks import contestants
from benchmarks import options
from benchmarks import preparation
from benchmarks import pythons
from benchmarks import targets
from hub_export import program
from hub_export.regnet import variants

flags.adopt_module_key_flags(options)
flags.adopt_module_key_flags(contest_program)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per step.", 2)


def main(_: Sequence[str]) -> int:
  chosen = contestants.chosen(contestants.TRAINING,
                              contest_program.CONTESTANTS.value)
  variant = variants.by_name(options.VARIANT.value)
  size, size_px = _BATCH_SIZE.value, options.IMAGE_SIZE.value
  with preparation.prepared(
      variant.name, options.CHECKPOINT.value, size_px, size, size,
      options.WORK_DIR.value, (),
      pythons.candidates(options.PEERS_PYTHON.value), _say) as prepared:
    found = contest_program.run(
        contest_program.Plan("train", chosen, [size], size_px,
                             targets.TRAINING, 0.5, 1),
        prepared, options.setting(), _say)
  contest_program.finish(
      "finetune", f"A step of fine-tuning, {variants.title(variant.name)}, "
      f"{size_px} x {size_px} pixels", "step", found, options.output_dir())
  return 0


def _say(text: str) -> None:
  print(text, flush=True)


if __name__ == "__main__":
  program.run(main)
