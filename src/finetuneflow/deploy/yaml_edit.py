"""Sets one text in a YAML file and leaves every other byte as it is: comments, order, quotes, indentation.

A round trip through a YAML library reformats a file that people keep by hand (indentation, `---`, columns of
comments). Here the library only tells where a value stands; the text is cut there, read again, and refused
unless that one value is all that changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from finetuneflow.errors import InputError

Place = tuple[str | int, ...]
Leaf = tuple[str, str]
"""Tag and text of a scalar."""
TEXT = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"
STEP = 2
"""Indentation of lines that are added to a file which has none to go by."""


def texts(source: str, path: Path) -> dict[Place, str]:
    """Every scalar of a YAML file by the keys that lead to it; `path` is for error messages."""
    return {place: leaf[1] for place, leaf in _leaves(_compose(source, path)).items()}


def set_text(source: str, keys: Sequence[str], value: str, path: Path) -> str:
    """The file's text with `value` under `keys`; missing keys are added after their neighbours.

    Raises:
        InputError: not YAML, or written in a way that cannot be changed without touching something else.
    """
    root = _compose(source, path)
    before = _leaves(root)
    edited = _edit(source, root, list(keys), value, path)
    place = tuple(keys)
    expected = {key: leaf for key, leaf in before.items() if key != place[: len(key)]} | {
        place: (TEXT, value)
    }
    try:
        same = _leaves(yaml.compose(edited, Loader=yaml.SafeLoader)) == expected
    except (yaml.YAMLError, RecursionError):
        same = False
    if not same:
        raise _cannot(path, keys)
    return edited


def _cannot(path: Path, keys: Sequence[str]) -> InputError:
    return InputError(
        f"`{'.'.join(keys)}` cannot be set without touching something else in the file",
        "write it by hand as plain lines, without anchors or braces",
        path=path,
    )


def _compose(source: str, path: Path) -> yaml.Node | None:
    try:
        root: yaml.Node | None = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(
            f"this is not YAML: {' '.join(str(problem).split())}",
            "mend the file first: it was left as it is",
            path=path,
            line=None if mark is None else mark.line + 1,
        ) from error
    except RecursionError as error:
        raise InputError("this is nested too deeply", "mend the file first", path=path) from error
    return root


def _leaves(root: yaml.Node | None) -> dict[Place, Leaf]:
    """Scalars and empty collections by path; of a key written twice the last one, as readers take it."""
    return {} if root is None else dict(_walk(root, (), frozenset()))


def _walk(node: yaml.Node, place: Place, above: frozenset[int]) -> Iterator[tuple[Place, Leaf]]:
    if id(node) in above:  # an anchor that contains itself
        return
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _walk(value, (*place, str(key.value)), above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, (*place, index), above)
    else:
        yield place, (node.tag, node.value)
        return
    if not node.value:
        yield place, (node.tag, "")


def _edit(source: str, root: yaml.Node | None, keys: list[str], value: str, path: Path) -> str:
    if root is None:
        return _add(source, len(source), _lines(keys, value, 0))
    node, depth = root, 0
    while isinstance(node, yaml.MappingNode) and depth < len(keys):
        below = [found for key, found in node.value if key.value == keys[depth]]
        if not below:
            return _insert(source, node, keys[depth:], value)
        node, depth = below[-1], depth + 1
    start, end = node.start_mark.index, node.end_mark.index
    empty = start == end  # `key:` and nothing after it
    if isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">"):
        if depth == len(keys):
            return source[:start] + " " * empty + _scalar(value, node.style) + source[end:]
        if empty and depth:
            line = source[source.rfind("\n", 0, start) + 1 : start]
            indent = len(line) - len(line.lstrip(" ")) + STEP
            return _add(source, _line_end(source, start), _lines(keys[depth:], value, indent))
    raise _cannot(path, keys)


def _insert(source: str, node: yaml.MappingNode, keys: list[str], value: str) -> str:
    """Adds keys at the end of a mapping."""
    if node.flow_style:
        at = node.end_mark.index - 1
        pair = f"{_scalar(keys[0])}: " + "".join(f"{{{_scalar(key)}: " for key in keys[1:])
        pair += json.dumps(value, ensure_ascii=False) + "}" * (len(keys) - 1)
        return source[:at].rstrip() + (", " if node.value else "") + pair + source[at:]
    return _add(source, _end_of(source, node.value[-1][1]), _lines(keys, value, node.start_mark.column))


def _end_of(source: str, node: yaml.Node) -> int:
    """Where the line after a value begins; the marks of a block end only at the next key."""
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end: int = node.end_mark.index
    if end and source[end - 1] == "\n":  # a block of text, with its last line break
        return end
    return _line_end(source, end)


def _line_end(source: str, at: int) -> int:
    found = source.find("\n", at)
    return len(source) if found < 0 else found + 1


def _add(source: str, at: int, lines: str) -> str:
    """Lines put in where a line begins, with the line ends of the file."""
    ends = "\r\n" if "\r\n" in source else "\n"
    gap = ends if at and source[at - 1] != "\n" and source.strip("\ufeff") else ""
    return source[:at] + gap + lines.replace("\n", ends) + source[at:]


def _lines(keys: Sequence[str], value: str, indent: int) -> str:
    lines = [" " * (indent + STEP * depth) + f"{_scalar(key)}:" for depth, key in enumerate(keys)]
    lines[-1] += f" {json.dumps(value, ensure_ascii=False)}"
    return "\n".join(lines) + "\n"


def _scalar(text: str, style: str | None = None) -> str:
    """A text as YAML, in the quotes that stood there; plain only where it still reads as text."""
    if style == "'":
        return "'" + text.replace("'", "''") + "'"
    if style is None:
        try:
            plain = _leaves(yaml.compose(f"[{text}]", Loader=yaml.SafeLoader)) == {(0,): (TEXT, text)}
        except yaml.YAMLError:
            plain = False
        if plain and not text[0].isdigit():  # 1e3 is text to some readers and a number to others
            return text
    return json.dumps(text, ensure_ascii=False)
