"""How long a module takes for one image, as its users call it.

It is a figure for the card, not a check: machines differ, and nothing else
is promised. The benchmarks take times by the same meter.
"""

import time
from collections.abc import Callable
from typing import Any

from checks import meter
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
  turn = meter.time_calls(
      lambda: _call(subject.model, image),
      lambda calls, seconds: calls >= _MOST_CALLS or (
          calls >= _FEWEST_CALLS and seconds >= _ENOUGH_SECONDS), clock)
  found = meter.tenths(turn.wall)
  return {"median_ms": round(1e3 * found.median, 3),
          "low_ms": round(1e3 * found.low, 3),
          "high_ms": round(1e3 * found.high, 3),
          "calls": len(turn.wall), "image_size_px": size_px}


def _call(model: Any, image: Any) -> None:
  model(image).numpy()  # Waits for the outputs.
