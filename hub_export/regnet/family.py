"""RegNet as a family: checkpoints become HubModules with manifest and text."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from hub_export import hub_module
from hub_export.regnet import inference
from hub_export.regnet import modules
from hub_export.regnet import network
from hub_export.regnet import reference
from hub_export.regnet import resolve
from hub_export.regnet import variants

FAMILY = "regnet"
MIN_SIZE_PX = 32
_COUNT_SIZE_PX = 224   # Multiply-adds are stated for this size.
# Odd and unequal sides show wrong padding, unequal channels a wrong order.
_GOLDEN_SHAPE = (2, 65, 48, 3)


def hub_modules(resolved: resolve.Resolved,
                form: str) -> Iterator[hub_module.HubModule]:
  """Yields classifier and feature extractor; the latter alone without a head.

  Args:
    resolved: The checkpoint and what is known of it.
    form: "main", whose gradients on a CPU need oneDNN, or "portable", whose
      gradients work on every CPU.
  """
  checkpoint = resolved.checkpoint
  prep = resolved.preprocessing
  # From the file, not from the network; and first, so that no large tensor is
  # in memory twice.
  features, logits = _golden(resolved)
  net = network.Network(checkpoint.architecture, checkpoint.tensors, prep.mean,
                        prep.std, portable=form == "portable")
  if checkpoint.num_classes:
    yield _hub_module(resolved, net, "classifier", form, logits)
  yield _hub_module(resolved, net, "feature_extractor", form, features)


def inferences(resolved: resolve.Resolved) -> Iterator[hub_module.Inference]:
  """Yields the same two for inference alone, for the forms without variables.

  Args:
    resolved: The checkpoint and what is known of it.
  """
  checkpoint = resolved.checkpoint
  prep = resolved.preprocessing
  features, logits = _golden(resolved)

  @functools.cache  # Both modules have the same one, head or no head.
  def network_of(build: hub_module.Build) -> inference.Network:
    return inference.Network(checkpoint.architecture, checkpoint.tensors,
                             prep.mean, prep.std, build)

  kinds = {"feature_extractor": features}
  if checkpoint.num_classes:
    kinds = {"classifier": logits, **kinds}
  for kind, golden in kinds.items():
    yield hub_module.Inference(
        name=module_name(checkpoint.architecture.name, resolved.dataset,
                         "main", kind),
        kind=kind, network=network_of, preprocessing=prep,
        labels=resolved.labels if kind == "classifier" else (),
        manifest=_manifest(resolved, kind, "main"),
        golden_images=golden.images, golden_outputs=golden.outputs,
        golden_noise=golden.noise)


def module_name(variant: str, dataset: resolve.Dataset, form: str,
                kind: str) -> str:
  """Returns such as "regnety600mf_digits_portable_feature_extractor"."""
  middle = dataset.infix + ("" if form == "main" else f"{form}_")
  task = "classification" if kind == "classifier" else kind
  return f"{variants.compact_name(variant)}_{middle}{task}"


def _hub_module(resolved: resolve.Resolved, net: network.Network, kind: str,
                form: str, golden: "_Golden") -> hub_module.HubModule:
  arch = resolved.checkpoint.architecture
  is_classifier = kind == "classifier"
  names = resolved.labels if is_classifier else ()
  if is_classifier:
    root = modules.Classifier(net, names, resolved.preprocessing)
  else:
    root = modules.FeatureExtractor(net, resolved.preprocessing)
  return hub_module.HubModule(
      name=module_name(arch.name, resolved.dataset, form, kind),
      root=root, signatures=root.trace(), labels=names,
      manifest=_manifest(resolved, kind, form), golden_images=golden.images,
      golden_outputs=golden.outputs, golden_noise=golden.noise)


@dataclasses.dataclass(frozen=True)
class _Golden:
  """What one kind of module has to make of images; see HubModule."""
  images: np.ndarray
  outputs: np.ndarray
  noise: float


def _golden(resolved: resolve.Resolved) -> tuple[_Golden, _Golden | None]:
  """Returns the golden features, and logits where there is a head."""
  images = _golden_images()
  exact, rounded = (
      reference.outputs(
          resolved.checkpoint.tensors,
          resolved.checkpoint.architecture.convention.name,
          resolved.preprocessing.mean, resolved.preprocessing.std, images,
          dtype)
      for dtype in (np.float64, np.float32))

  def made(outputs: np.ndarray, in_float32: np.ndarray) -> _Golden:
    noise = np.abs(outputs - in_float32).max() / max(outputs.std(), 1e-30)
    with np.errstate(divide="ignore"):  # Of no noise at all.
      # Up to a power of 2: another machine's float32 rarely changes that.
      noise = np.exp2(np.ceil(np.log2(noise)))
    return _Golden(images, outputs.astype(np.float32), float(noise))

  features, logits = zip(exact, rounded)
  return made(*features), None if logits[0] is None else made(*logits)


def _golden_images() -> np.ndarray:
  """Returns two unlike images: noise on slopes, channels of unlike range."""
  random = np.random.default_rng(0)
  batch, height, width, channels = _GOLDEN_SHAPE
  noise = random.uniform(0, 0.5, _GOLDEN_SHAPE)
  slopes = np.stack([np.linspace(0, 0.5, width) * np.ones((height, 1)),
                     np.linspace(0.5, 0, height)[:, None] * np.ones(width)])
  assert batch == len(slopes) and channels == 3
  images = (noise + slopes[..., None]) * np.array([1.0, 0.7, 0.4])
  return images.astype(np.float32)


def _manifest(resolved: resolve.Resolved, kind: str,
              form: str) -> dict[str, Any]:
  """Returns the manifest, less what `saved_model.write` adds to it."""
  checkpoint = resolved.checkpoint
  arch = checkpoint.architecture
  is_classifier = kind == "classifier"
  classes = checkpoint.num_classes if is_classifier else 0
  trainable, total = variants.parameter_counts(arch, classes)
  other = "feature_extractor" if is_classifier else "classifier"
  outputs = {"num_classes": classes} if is_classifier else {
      "feature_dim": arch.feature_dim,
      "endpoints": {f"stage{i}": stage.width
                    for i, stage in enumerate(arch.stages, 1)}}
  return {
      "family": FAMILY, "variant": arch.name, "kind": kind, "form": form,
      "companion": module_name(arch.name, resolved.dataset, form, other)
                   if checkpoint.num_classes else None,
      "is_demo": resolved.is_demo,
      "checkpoint": {
          "source": resolved.source, "format": checkpoint.layout.format,
          "location": resolved.location, "files": list(resolved.files),
          "convention": arch.convention.name,
          "channel_order": checkpoint.channel_order},
      "weights": {
          **checkpoint.digests,
          **({} if is_classifier
             else {"sha256": checkpoint.digests["backbone_sha256"]})},
      "parameters": {"trainable": trainable, "total": total},
      "multiply_adds": {
          "count": variants.multiply_adds(arch, classes, _COUNT_SIZE_PX),
          "image_size_px": _COUNT_SIZE_PX},
      "dataset": {
          "name": resolved.dataset.name, "title": resolved.dataset.title,
          "split": resolved.dataset.split,
          "tfhub_tag": resolved.dataset.tfhub_tag},
      "preprocessing": resolved.preprocessing.to_dict(),
      "inputs": {"dtype": "float32", "min_size_px": MIN_SIZE_PX,
                 "range": [0.0, 1.0], "channel_order": "RGB",
                 "compute_dtypes": [d.name for d in modules.COMPUTE_DTYPES]},
      "outputs": outputs,
      "reported_accuracy": _reported(resolved),
      "licence": {"id": resolved.licence_id, "text": resolved.licence},
      "card": _card(resolved, kind),
  }


def _reported(resolved: resolve.Resolved) -> dict[str, Any] | None:
  reported = resolved.reported
  return reported and {
      "top1": _rounded(reported.top1), "top5": _rounded(reported.top5),
      "source": reported.source,
      "tolerance": reported.tolerance,
      "tolerance_reason": reported.tolerance_reason}


def _rounded(percent: float | None) -> float | None:
  """Returns a percentage with four decimals: no example weighs so little."""
  return None if percent is None else round(percent, 4)


def _card(resolved: resolve.Resolved, kind: str) -> dict[str, Any]:
  """Returns the family's text for a card; it has no number of its own."""
  arch = resolved.checkpoint.architecture
  name = variants.title(arch.name)
  task = ("Image classification" if kind == "classifier" else
          "Image feature extraction")
  title = f"{name}, {task.lower()}"
  is_y = name.startswith("RegNetY")
  description = (
      f"{task} with {name}, a convolutional network of the RegNet design space "
      f"with{'' if is_y else 'out'} squeeze-and-excitation, "
      f"{'for' if resolved.is_own else 'trained on'} {resolved.dataset.title}.")
  if kind == "classifier":
    limits = ("It has an answer to every image, also where none of its classes "
              "is to be seen.")
    use = ("Classifying photographs into the classes of the training data, and "
           "fine-tuning for other image tasks.")
  else:
    limits = ("It has features for every image, also for those that are unlike "
              "all that it was trained on.")
    use = ("Features of photographs for models of your own, and fine-tuning "
           "for other image tasks.")
  if resolved.is_demo:
    description += (" This is a demo of the export pipeline on small images "
                    "of digits, not a model for use.")
    limits = ("A demo: it knows ten digits of one data set at one size, and "
              "nothing else. " + limits)
    use = "Trying out the pipeline from checkpoint to published model."
  return {
      "title": title, "description": description,
      "architecture": "regnety" if is_y else "regnetx",
      "training": resolved.training, "intended_use": use, "limits": limits,
      "references": [
          "Radosavovic, Kosaraju, Girshick, He, Dollár: Designing Network "
          "Design Spaces. CVPR 2020. https://arxiv.org/abs/2003.13678"],
  }
