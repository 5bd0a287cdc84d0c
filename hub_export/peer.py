"""What others reported for checkpoints, to set measured figures against."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Peer:
  """One published checkpoint and the accuracy that was reported for it."""
  name: str           # "pycls:RegNetY-600MF".
  source: str         # "pycls".
  variant: str        # "regnety_600mf".
  architecture: str   # As manifests have it in card.architecture: "regnety".
  dataset: str        # What it was evaluated on, TFDS' name.
  split: str
  image_size_px: int  # Side of the square that it was fed.
  multiply_adds: int  # For one such image.
  top1: float         # Percent, reported.
  figures_from: str   # Where it was published.
