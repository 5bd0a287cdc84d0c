"""Figures in the form in which pages show them."""


def percent(value: float) -> str:
  """Returns "97.50" for 97.5."""
  return f"{value:.2f}".replace("-0.00", "0.00")


def short(count: int | None) -> str:
  """Returns a count in three digits: "5.45 M" for 5452250; a dash for None."""
  if count is None:
    return "–"
  return _scaled(count, (" ", " K", " M", " G", " T")).strip()


def size(num_bytes: int) -> str:
  """Returns a size in decimal units, in three digits: "25.1 MB"."""
  return _scaled(num_bytes, (" B", " kB", " MB", " GB", " TB"))


def _scaled(value: int, units: tuple[str, ...]) -> str:
  scaled, unit = float(value), 0
  # What would be rounded to four digits belongs to the next unit.
  while scaled >= 999.5 and unit < len(units) - 1:
    scaled, unit = scaled / 1000, unit + 1
  if unit == 0:
    return f"{value}{units[0]}"
  decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
  return f"{scaled:.{decimals}f}{units[unit]}"
