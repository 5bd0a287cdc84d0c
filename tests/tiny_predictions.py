"""Predictions made up for tests, of few examples with known outcomes."""

from collections.abc import Sequence

import numpy as np

from checks import predictions


def of(labels: Sequence[Sequence[int]], top: Sequence[Sequence[int]],
       probabilities: Sequence[float] | None = None,
       margins: Sequence[float] | None = None,
       nll: Sequence[float] | None = None,
       file_names: Sequence[str] | None = None) -> predictions.Predictions:
  """Returns predictions of n examples.

  Args:
    labels: The right classes of each; may be none.
    top: The predicted classes of each, equally many, best first.
    probabilities: Of the best class; 0.5 if not given. The others share the
      rest, each half of what is left.
    margins: 1 if not given.
    nll: 1 if not given; NaN where there is no label.
    file_names: "0000.png" and so on if not given.
  """
  n, k = len(labels), len(top[0])
  names = file_names or [f"{i:04}.png" for i in range(n)]
  widest = max(1, *map(len, labels))
  first = np.array(probabilities or [0.5] * n, np.float64)
  shares = [first]
  for _ in range(k - 1):
    shares.append((1 - sum(shares)) / 2)
  likelihoods = np.array(nll or [1.0] * n, np.float32)
  likelihoods[[not row for row in labels]] = np.nan
  return predictions.Predictions(
      tuple(names),
      np.array([predictions.example_digest(name, list(row), b"image")
                for name, row in zip(names, labels)], "S32"),
      np.array([[*row, *[predictions.NO_LABEL] * (widest - len(row))]
                for row in labels], np.int32),
      np.array(top, np.int32),
      np.stack(shares, axis=1).astype(np.float32),
      np.array(margins or [1.0] * n, np.float32), likelihoods)


def random(n: int, num_classes: int, seed: int, multi_label: bool = False
           ) -> predictions.Predictions:
  """Returns predictions of random logits, most of them right.

  Args:
    n: How many examples.
    num_classes: At least 3.
    seed: The same one gives the same examples and logits.
    multi_label: Whether examples have up to three labels, some none.
  """
  rng = np.random.default_rng(seed)
  labels = [sorted(rng.choice(num_classes, rng.integers(0, 4), False).tolist())
            if multi_label else [int(rng.integers(num_classes))]
            for _ in range(n)]
  logits = rng.normal(0, 1, (n, num_classes))
  for i, row in enumerate(labels):
    if row:
      logits[i, row[-1]] += rng.normal(2, 1.5)
  names = [f"{i:05}.png" for i in rng.permutation(n)]
  return predictions.concatenate([predictions.from_logits(
      names, [predictions.example_digest(name, row, b"image")
              for name, row in zip(names, labels)], labels,
      (2 * logits).astype(np.float32))])
