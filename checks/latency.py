"""How long a module takes for one image, as its users call it.

It is a figure for the card, not a check: machines differ, and nothing else
is promised.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

from checks import subject as subject_lib

_WARM_UP_CALLS = 3   # The first one traces, the next ones fill caches.
_MOST_CALLS = 50
_FEWEST_CALLS = 5
_ENOUGH_SECONDS = 5.0


def measure(subject: subject_lib.Subject,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
  """Returns the times of calls with one image, as a report has them.

  Args:
    subject: The export; it is called through hub.load at the size that its
      images are cut to.
    clock: Seconds.

  Returns:
    "median_ms", and "low_ms" and "high_ms" that a tenth of the calls were
    faster and slower than; "calls", how many were timed; "image_size_px".
  """
  size_px = subject.preprocessing.crop_px
  image = subject_lib.probe_images(1, size_px, size_px)
  for _ in range(_WARM_UP_CALLS):
    _call(subject.model, image)
  seconds = []
  start = clock()
  while len(seconds) < _FEWEST_CALLS or (
      len(seconds) < _MOST_CALLS and clock() - start < _ENOUGH_SECONDS):
    begin = clock()
    _call(subject.model, image)
    seconds.append(clock() - begin)
  tenths = statistics.quantiles(seconds, n=10, method="inclusive")
  return {"median_ms": round(1e3 * statistics.median(seconds), 3),
          "low_ms": round(1e3 * tenths[0], 3),
          "high_ms": round(1e3 * tenths[-1], 3),
          "calls": len(seconds), "image_size_px": size_px}


def _call(model: Any, image: Any) -> None:
  model(image).numpy()  # Waits for the outputs.
