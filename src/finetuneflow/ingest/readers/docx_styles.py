"""What the paragraph styles of a DOCX mean: publishers have their own, and mammoth knows only Word's."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_NOT_TITLES = re.compile(r"number|caption|note|header|footer|en-?t[eê]te|pied|box ?type", re.IGNORECASE)
_TITLES = re.compile(r"head(?:ing)?|titre|title|chapitre|intertitre", re.IGNORECASE)
_CODE = re.compile(r"code|listing|source|preformatted|préformaté|macro text|verbatim", re.IGNORECASE)
_NOT_CODE = re.compile(r"caption|label|l[ée]gende|annotation", re.IGNORECASE)
_DOCUMENT_TITLES = re.compile(r"(?:chapter|document|book)?\s*-?title|titre(?: du document)?", re.IGNORECASE)
_MONOSPACE = re.compile(r"courier|consol|mono|menlo", re.IGNORECASE)


def style_map(styles: bytes) -> str:
    """Rules for mammoth: which styles are headings of which level, and which are code.

    Errors: `ElementTree.ParseError` for XML that is not well formed.
    """
    if not styles:
        return ""
    rules = []
    for style in ElementTree.fromstring(styles).iter(f"{_W}style"):  # noqa: S314
        name = _attribute(style.find(f"{_W}name"), "val")
        if style.get(f"{_W}type") != "paragraph" or not name or "'" in name:
            continue
        level = _heading_level(style, name)
        if level:
            rules.append(f"p[style-name='{name}'] => h{level}:fresh")
        elif _is_code(style, name):
            rules.append(f"p[style-name='{name}'] => pre:separator('\\n')")
    return "\n".join(rules)


def _heading_level(style: ElementTree.Element, name: str) -> int:
    outline = _attribute(style.find(f"{_W}pPr/{_W}outlineLvl"), "val")
    if outline.isdigit() and int(outline) < 6:
        return int(outline) + 1
    if _DOCUMENT_TITLES.fullmatch(name):
        return 1
    based_on = _attribute(style.find(f"{_W}basedOn"), "val")
    for candidate in (name, based_on):
        if not _TITLES.search(candidate) or _NOT_TITLES.search(candidate):
            continue
        tail = re.search(r"(\d|[A-F])$", candidate.strip())
        if tail is None:
            return 3 if candidate == name else 0
        # HeadA, HeadB … stand under a chapter title.
        return min(6, int(tail[1]) if tail[1].isdigit() else ord(tail[1]) - ord("A") + 2) or 1
    return 0


def _is_code(style: ElementTree.Element, name: str) -> bool:
    if _NOT_CODE.search(name):
        return False
    if _CODE.search(name):
        return True
    fonts = style.find(f"{_W}rPr/{_W}rFonts")
    return fonts is not None and bool(_MONOSPACE.search(fonts.get(f"{_W}ascii") or ""))


def _attribute(element: ElementTree.Element | None, name: str) -> str:
    return "" if element is None else element.get(f"{_W}{name}") or ""
