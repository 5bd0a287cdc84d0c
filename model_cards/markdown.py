"""Text of strangers made safe for Markdown, and tables that line up.

What a manifest or a report says goes into cards as text: it can neither open
a heading, a table cell, a comment or a link, nor hide characters.
"""

import re
import unicodedata
from collections.abc import Sequence

# Opens a block (heading, quote, list, rule, fence, table) at a line's start.
_BLOCK_START = re.compile(r"(?=[#>*+=~|-])")
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s)")


def one_line(value: object) -> str:
  """Returns `value` as text without line breaks and invisible characters."""
  text = " ".join(str(value).split())
  return "".join(c for c in text if unicodedata.category(c) not in
                 ("Cc", "Cf", "Co", "Cs"))


def text(value: object) -> str:
  """Returns `value` for the inside of a paragraph or of a table's cell."""
  escaped = one_line(value).replace("\\", "\\\\")
  escaped = escaped.replace("&", "&amp;")
  escaped = escaped.replace("<", "&lt;").replace(">", "&gt;")
  # Between letters, "_" emphasises nothing.
  return re.sub(r"([|`\[\]*~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", escaped)


def name(value: object) -> str:
  """Returns a name as `text` does, and so that no hub makes a link of it."""
  return re.sub(r":(?=//)|(?<=www)\.", r"\\\g<0>", text(value),
                flags=re.IGNORECASE)


def paragraph(value: object) -> str:
  """Returns `value` as a paragraph, whatever its first character is."""
  escaped = _NUMBERED.sub(r"\1\\\2", text(value))
  return _BLOCK_START.sub(r"\\", escaped, count=1) if (
      _BLOCK_START.match(escaped)) else escaped


def code(value: object) -> str:
  """Returns `value` between backticks; backticks in it become quotes."""
  inner = one_line(value).replace("`", "'").replace("|", "\\|")
  return f"`{inner or ' '}`"


def tag(value: object) -> str:
  """Returns `value` for a metadata comment: letters, digits, `_`, `.`, `-`.

  A run of hyphens shrinks to one, so that none can end the comment.
  """
  return re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9_.-]", "-", str(value)))


def table(header: Sequence[str], rows: Sequence[Sequence[str]],
          right: Sequence[int] = ()) -> str:
  """Returns a table whose columns line up in the source as well.

  Args:
    header: One title per column.
    rows: Cells that went through `text` or `code`, as many as titles.
    right: Numbers of the columns to align to the right, from 0.
  """
  widths = [max(3, *(len(row[i]) for row in (header, *rows)))
            for i in range(len(header))]

  def line(cells: Sequence[str]) -> str:
    padded = [cell.rjust(width) if i in right else cell.ljust(width)
              for i, (cell, width) in enumerate(zip(cells, widths))]
    return f"| {' | '.join(padded)} |"

  rule = ["-" * (width - 1) + ":" if i in right else "-" * width
          for i, width in enumerate(widths)]
  return "\n".join([line(header), line(rule), *map(line, rows)])
