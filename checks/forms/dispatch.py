"""The checks of each form without variables."""

from checks import listed


def checks(form: str) -> tuple[listed.Check, ...]:
  """Returns the checks of a form that cannot be fine-tuned.

  Nothing is imported but what the form at hand needs.
  """
  # pylint: disable=g-import-not-at-top
  if form == "serving":
    from checks.forms import serving
    return serving.CHECKS
  raise ValueError(f"nothing checks the form {form!r}")
