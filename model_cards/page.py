"""A page's Markdown as readers see it: links, tables, headings, words."""

import dataclasses
import functools
import html
import re
import unicodedata
from collections.abc import Iterator

_LINK = re.compile(r"(?<!\\)\]\((?P<target>[^)\s]+)\)")
# Examples of code may have any numbers.
_LANGUAGES = ("python", "py", "sh", "bash", "shell", "json", "yaml", "js",
              "javascript", "html", "java", "kotlin", "swift", "c", "cpp", "go", "rust")
INLINE_CODE = re.compile(r"(?<!\\)(`[^`]*`)")


def file_links(card: str) -> list[str]:
  """Returns the relative links of a page, each once, as they stand there."""
  text, _ = without_code(card)
  text = INLINE_CODE.sub(" ", text)
  return list(dict.fromkeys(
      match["target"] for match in _LINK.finditer(text)
      if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|#", match["target"])))


def links(text: str) -> list[str]:
  """Returns the targets of all links of a page without fenced code."""
  return [match["target"] for match in _LINK.finditer(text)]


def without_code(card: str) -> tuple[str, bool]:
  """Returns a page without fenced code, and whether every fence closes."""
  lines = list(_lines(card))
  is_open = lines[-1].is_code and not lines[-1].is_end
  return "\n".join(line.text for line in lines if not line.is_code), not is_open


def fenced(card: str) -> str:
  """Returns the lines of fenced code, with the fences."""
  return "\n".join(line.text for line in _lines(card) if line.is_code)


def fenced_text(card: str) -> str:
  """Returns the lines of fenced code that is in no programming language."""
  found, is_open, is_text = [], False, False
  for line in _lines(card):
    if line.is_code and not is_open:
      language = line.text.strip(" `~").partition(" ")[0].lower()
      is_text = language not in _LANGUAGES
    elif line.is_code and is_text and not line.is_end:
      found.append(line.text)
    is_open = line.is_code and not line.is_end
  return "\n".join(found)


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading and what stands below it, up to the next one."""
  level: int    # 1 for "#".
  title: str
  text: str     # With fenced code.


def sections(card: str) -> list[Section]:
  """Returns the sections of a page; "#" in fenced code opens none."""
  found: list[tuple[int, str, list[str]]] = []
  for line in _lines(card):
    heading = re.fullmatch(r"(#{1,6}) +(.*?)[ #]*", line.text)
    if heading and not line.is_code:
      found.append((len(heading[1]), heading[2], []))
    elif found:
      found[-1][2].append(line.text)
  return [Section(level, title, "\n".join(lines))
          for level, title, lines in found]


@dataclasses.dataclass(frozen=True)
class _Line:
  text: str
  is_code: bool  # In fenced code, or a fence.
  is_end: bool   # A fence that closes.


def _lines(card: str) -> Iterator[_Line]:
  fence = ""
  for line in card.split("\n"):
    mark = re.match(r" {0,3}(`{3,}|~{3,})(.*)$", line)
    if fence:
      is_end = bool(mark and mark[1].startswith(fence)
                    and not mark[2].strip())
      fence = "" if is_end else fence
      yield _Line(line, True, is_end)
    elif mark and not (mark[1][0] == "`" and "`" in mark[2]):
      fence = mark[1]
      yield _Line(line, True, False)
    else:
      yield _Line(line, False, False)


def cells(line: str) -> list[str]:
  """Returns the cells of a table's row, none for any other line."""
  line = line.strip()
  if not line.startswith("|"):
    return []
  return [squeeze(cell) for cell in
          re.split(r"(?<!\\)\|", line.removesuffix("|")[1:])]


@functools.lru_cache(maxsize=1 << 14)  # The same lines are read many times.
def squeeze(text: str) -> str:
  """Returns Markdown as it reads: no escapes, entities and line breaks."""
  return visible(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1",
                         html.unescape(text)))


def visible(text: str) -> str:
  """Returns `text` on one line, without invisible characters.

  Backticks become quotes, as they must between backticks.
  """
  text = " ".join(text.split()).replace("`", "'")
  if text.isprintable():  # Most are, and this is quick.
    return text
  return "".join(c for c in text if unicodedata.category(c) not in
                 ("Cc", "Cf", "Co", "Cs"))
