"""The figures that others reported for RegNets, from the catalog.

Nothing here imports TensorFlow.
"""

from hub_export import peer
from hub_export.regnet import catalog
from hub_export.regnet import variants

_CONVENTIONS = {"keras": "keras", "regnety": "regnety"}  # Others: "torch".


def reported() -> tuple[peer.Peer, ...]:
  """Returns the best checkpoint of each source for each variant.

  That is the one with the highest reported top-1 on ImageNet-1k's validation
  split, of equal ones at the smaller size; none under a licence that restricts
  its use. They come in the order of the variants, then of the sources.
  """
  best = {}
  for entry in catalog.ENTRIES:
    if entry.num_classes != 1000 or entry.needs_acceptance:
      continue
    for figure in entry.evaluations:
      if figure.accuracy is None:
        continue
      key = (entry.variant, entry.source)
      rank = (figure.accuracy.top1, -figure.image_size)
      if key not in best or rank > best[key][0]:
        best[key] = (rank, entry, figure)
  return tuple(
      _peer(*best[v.name, source][1:])
      for v in variants.VARIANTS for source in catalog.SOURCES
      if (v.name, source) in best)


def _peer(entry: catalog.Entry, figure: catalog.Evaluation) -> peer.Peer:
  built = variants.architectures(
      variants.by_name(entry.variant),
      _CONVENTIONS.get(entry.source, "torch"))
  # The second one, where there is one, has torchvision's widths.
  arch = built[-1 if entry.architecture == "torchvision" else 0]
  return peer.Peer(
      name=entry.name, source=entry.source, variant=entry.variant,
      architecture=entry.variant.split("_")[0],
      dataset="imagenet2012", split="validation",
      image_size_px=figure.image_size,
      multiply_adds=variants.multiply_adds(
          arch, entry.num_classes, figure.image_size),
      top1=figure.accuracy.top1, figures_from=figure.accuracy.source)
