"""From trained RegNet checkpoints to published TensorFlow Hub models."""

__version__ = "0.1.0"
