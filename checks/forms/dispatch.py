"""The checks of each form without variables."""

from checks import listed
from hub_export.forms import extras


def checks(form: str) -> tuple[listed.Check, ...]:
  """Returns the checks of a form that cannot be fine-tuned.

  Nothing is imported but what the form at hand needs.

  Raises:
    UnavailableError: if that is not installed.
  """
  # pylint: disable=g-import-not-at-top
  if form == "serving":
    from checks.forms import serving
    return serving.CHECKS
  extras.require(form)
  if form == "onnx":
    from checks.forms import onnx
    return onnx.CHECKS
  if form == "tfjs":
    from checks.forms import tfjs
    return tfjs.CHECKS
  if form == "lite":
    from checks.forms import lite
    return lite.CHECKS
  raise ValueError(f"nothing checks the form {form!r}")
