"""Plain text: paragraphs (unwrapped), headings, bullet lists and key-value lines."""

from __future__ import annotations

import re

from finetuneflow.ingest.assemble import Piece

_BULLET = re.compile(r"(?P<indent>[ \t]*)(?:[-*+•‣–—◦▪]|\(?\d{1,3}[.)]|\(?[a-z][.)])[ \t]+\S")
_UNDERLINE = re.compile(r"[ \t]*(=+|-{3,}|~{3,})[ \t]*")
_NUMBERED = re.compile(r"(?P<number>\d+(?:\.\d+)*)[.)]?[ \t]+[^\W\d_]")
_KEY_VALUE = re.compile(r"\s*[^\W\d_][^:=\n.;!?]{1,40}\s?(?::|=)\s+\S")
_HEADING_CHARACTERS = 80


def read_text(text: str) -> list[Piece]:
    """Pieces of a plain text; a form feed counts as a blank line."""
    pieces: list[Piece] = []
    lines: list[str] = []
    for line in [*text.replace("\f", "\n\n").split("\n"), ""]:
        if line.strip():
            lines.append(line)
        elif lines:
            pieces.extend(_group(lines))
            lines = []
    return pieces


def key_value_lines(lines: list[str]) -> bool:
    """True when at least two lines stand together and each reads `key: value`."""
    return len(lines) > 1 and all(_KEY_VALUE.match(line) for line in lines)


def _group(lines: list[str]) -> list[Piece]:
    """Pieces of the lines between two blank ones."""
    if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1]) and not _UNDERLINE.fullmatch(lines[0]):
        heading = Piece("heading", lines[0], level=1 if "=" in lines[1] else 2)
        return [heading, *(_group(lines[2:]) if lines[2:] else [])]
    if len(lines) == 1 and _is_heading(lines[0].strip()):
        return [Piece("heading", lines[0], level=_level(lines[0].strip()))]
    if key_value_lines(lines):
        return [Piece("paragraph", line) for line in lines]
    pieces: list[Piece] = []
    for line in lines:
        bullet = _BULLET.match(line)
        if bullet:
            pieces.append(Piece("list_item", line, level=len(bullet["indent"].expandtabs(4)) // 2))
        elif pieces:
            pieces[-1].text += " " + line
        else:
            pieces.append(Piece("paragraph", line))
    return pieces


def _is_heading(line: str) -> bool:
    """A short line that stands alone, starts with a capital or a chapter number, and is no sentence."""
    if len(line) > _HEADING_CHARACTERS or line[-1] in ".,;!:" or sum(c.isalpha() for c in line) < 3:
        return False
    if _KEY_VALUE.match(line) or (_BULLET.match(line) and not _NUMBERED.match(line)):
        return False
    return line.isupper() or bool(_NUMBERED.match(line)) or (line[0].isupper() and len(line.split()) <= 8)


def _level(line: str) -> int:
    numbered = _NUMBERED.match(line)
    return min(6, numbered["number"].count(".") + 1) if numbered else 2
