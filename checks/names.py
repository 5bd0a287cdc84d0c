"""Which checks an export needs before it may be published.

What `suite` runs, by form and kind, told without TensorFlow: a report from
which some are missing has not passed, whatever it says of the others.
"""

from collections.abc import Iterable, Mapping

from hub_export import errors

# Of a SavedModel. "accuracy/expected" is run for those who ask for it only.
_SAVED_MODEL = (
    "structure/files", "structure/manifest", "structure/interface",
    "structure/signatures", "structure/parameters", "structure/weights",
    "structure/labels",
    "numerics/golden", "numerics/batch_sizes", "numerics/image_sizes",
    "numerics/repeatable", "numerics/image_bytes", "numerics/preprocessing",
    "numerics/features",
    "trainability/gradients", "trainability/moving_statistics",
    "trainability/mixed_precision", "trainability/fine_tuning",
    "trainability/mirrored", "trainability/save_and_reload",
    "accuracy/counting", "accuracy/image_bytes", "accuracy/top1",
    "accuracy/top5", "accuracy/earlier",
    "card/card")
_SAVED_MODEL_KINDS = {
    "classifier": _SAVED_MODEL,
    "feature_extractor": (*_SAVED_MODEL, "trainability/endpoints",
                          "accuracy/same_as_classifier")}
_FROZEN = (
    "structure/files", "structure/hashes", "structure/manifest",
    "structure/labels",
    "numerics/golden", "numerics/batch_sizes", "numerics/image_sizes",
    "numerics/repeatable", "numerics/preprocessing",
    "accuracy/counting", "accuracy/top1", "accuracy/top5", "accuracy/earlier",
    "card/card")
_FROZEN_KINDS = {
    "classifier": _FROZEN,
    "feature_extractor": (*_FROZEN, "accuracy/same_as_classifier")}


def _with(kinds: Mapping[str, tuple[str, ...]], *more: str
          ) -> dict[str, tuple[str, ...]]:
  return {kind: (*names, *more) for kind, names in kinds.items()}


_SERVING = _with(
    _FROZEN_KINDS, "structure/no_variables", "structure/signatures",
    "structure/weights", "structure/warm_up", "numerics/image_bytes",
    "trainability/refused", "accuracy/image_bytes", "accuracy/loss")
# By a manifest's form, then kind. A form with a suite of its own gets a line.
EXPECTED = {
    "main": _SAVED_MODEL_KINDS, "portable": _SAVED_MODEL_KINDS,
    "serving": _SERVING | {
        "classifier": (*_SERVING["classifier"], "numerics/features")},
    "lite": _with(
        _FROZEN_KINDS, "structure/signature", "structure/metadata",
        "structure/operators", "structure/weights", "structure/size",
        "structure/calibration", "numerics/threads", "trainability/constant",
        "accuracy/loss", "accuracy/agreement"),
    "onnx": _with(
        _FROZEN_KINDS, "structure/graph", "structure/metadata",
        "numerics/saved_model", "trainability/constants"),
    "tfjs": _with(
        _FROZEN_KINDS, "structure/graph", "structure/metadata",
        "numerics/javascript", "numerics/saved_model",
        "trainability/constants"),
}


def missing(form: object, kind: object, made: Iterable[str]) -> list[str]:
  """Returns the checks, "group/name" each, that an export needs besides `made`.

  Raises:
    ChecksError: if nobody knows what such an export needs.
  """
  try:
    expected = EXPECTED[form][kind]
  except (KeyError, TypeError):
    raise errors.ChecksError(
        f"no checks are known for a {kind} of the form {form}; expected a form "
        f"out of {sorted(EXPECTED)} and a kind out of "
        f"{sorted(_SAVED_MODEL_KINDS)}. Export it again.") from None
  found = set(made)
  return [name for name in expected if name not in found]
