"""One check, as it stands in a list of checks."""

import dataclasses
from collections.abc import Callable

from checks import report

BOTH = ("classifier", "feature_extractor")


@dataclasses.dataclass(frozen=True)
class Check:
  """One check; its function takes the subject, in accuracy the evaluation."""
  group: str
  name: str
  function: Callable[..., report.CheckResult]
  kinds: tuple[str, ...] = BOTH
