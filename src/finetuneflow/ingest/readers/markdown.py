"""Markdown: headings, lists, tables and code as plain text, without marks of emphasis and links."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from finetuneflow.ingest.assemble import Piece

_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_ATTRIBUTES = re.compile(r"\s*\{\s*[.#:/][^{}]*\}\s*$")
"""`{#anchor}` and `{ .class }` after a heading, as documentation tools write them."""
_ADMONITION = re.compile(r"^(?:///.*|:::.*|!!!.*|\?\?\?.*)$", re.MULTILINE)


def read_markdown(text: str) -> list[Piece]:
    """Pieces of a Markdown text. HTML, images and front matter are left out."""
    tokens = _PARSER.parse(_ADMONITION.sub("", _FRONT_MATTER.sub("", text)))
    pieces: list[Piece] = []
    lists = _Lists()
    index = 0
    while index < len(tokens):
        token = tokens[index]
        lists.follow(token)
        if token.type == "heading_open":
            title = _ATTRIBUTES.sub("", plain(tokens[index + 1]))
            pieces.append(Piece("heading", title, level=int(token.tag[1])))
        elif token.type == "inline" and tokens[index - 1].type == "paragraph_open":
            pieces.append(lists.paragraph(plain(token)))
        elif token.type in ("fence", "code_block"):
            pieces.append(Piece("code", token.content))
        elif token.type == "table_open":
            rows, index = _table(tokens, index)
            pieces.append(Piece("table", rows=rows))
        index += 1
    return pieces


class _Lists:
    """Which lists are open, and the marker of an item whose first paragraph is still to come."""

    def __init__(self) -> None:
        self._next: list[int] = []  # number of the next item, 0 in bullet lists
        self._marker = ""

    def follow(self, token: Token) -> None:
        if token.type == "bullet_list_open":
            self._next.append(0)
        elif token.type == "ordered_list_open":
            self._next.append(int(token.attrGet("start") or 1))
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            self._next.pop()
        elif token.type == "list_item_open":
            number = self._next[-1]
            self._marker = f"{number}. " if number else "- "
            self._next[-1] += bool(number)

    def paragraph(self, text: str) -> Piece:
        marker, self._marker = self._marker, ""
        if not self._next:
            return Piece("paragraph", text)
        return Piece("list_item", marker + text, level=len(self._next) - 1)


def plain(token: Token) -> str:
    """Text of an inline token without marks."""
    parts = []
    for child in token.children or []:
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return "".join(parts)


def _table(tokens: list[Token], index: int) -> tuple[list[list[str]], int]:
    rows: list[list[str]] = []
    while tokens[index].type != "table_close":
        if tokens[index].type == "tr_open":
            rows.append([])
        elif tokens[index].type == "inline":
            rows[-1].append(plain(tokens[index]))
        index += 1
    return rows, index
