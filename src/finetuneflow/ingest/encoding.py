"""Bytes to text: UTF-8, else detected on the whole file; mojibake repaired; a note for each repair."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

import chardet
import ftfy

from finetuneflow.errors import InputError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the one of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SURE = 0.5
"""Below this confidence a guess of another 8-bit alphabet is worth less than Windows-1252."""
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1f\x7f]")
_RESAVE = "save the file as UTF-8 in the program that wrote it, then try again"


def decode(data: bytes, path: Path | str) -> tuple[str, list[str]]:
    """Text of a file with line feeds and composed accents, and a note for each repair.

    Errors: InputError `empty_file`, `nul_bytes`, `encoding_unknown`, with the line where it breaks.
    """
    if not data.strip():
        raise InputError(
            "the file is empty",
            "check that it was saved or downloaded completely",
            path=path,
            code="empty_file",
        )
    text, notes = _to_text(data, path)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    _refuse_nul(text, path)
    if len(_CONTROL.findall(text)) > max(2, len(text) // 200):
        raise InputError(
            "this is not text: it is full of control characters",
            f"give a text file; if it is one, {_RESAVE}",
            path=path,
            code="encoding_unknown",
        )
    text = _CONTROL.sub("", text)
    if not text.strip():
        raise InputError("the file holds only blanks", "give a file with text", path=path, code="empty_file")
    return repair(text, notes)


def repair(text: str, notes: list[str]) -> tuple[str, list[str]]:
    """Text with mojibake undone (`Ã©tÃ©` → `été`) and accents composed, and the notes with one more if so."""
    # ftfy stops at a marker that no mojibake is without; a quick look saves seconds on clean files.
    if any(ord(character) > 127 for character in text):
        lines = text.split("\n")
        fixed = [line if line.isascii() else ftfy.fix_encoding(line) for line in lines]
        changed = [number for number, (a, b) in enumerate(zip(lines, fixed, strict=True), 1) if a != b]
        if changed:
            text = "\n".join(fixed)
            plural = "s" if len(changed) > 1 else ""
            notes = [
                *notes,
                f"Text decoded with the wrong encoding was repaired on {len(changed)} line{plural}"
                f" (first: line {changed[0]}).",
            ]
        text = unicodedata.normalize("NFC", text)
    return text, notes


def _to_text(data: bytes, path: Path | str) -> tuple[str, list[str]]:
    for mark, name in _BOMS:
        if data.startswith(mark):
            notes = [] if name == "utf-8" else [f"Read as {name.upper()}."]
            return _strict(data[len(mark) :] if name == "utf-8" else data, name, path), notes
    if 0 in data:
        return _wide(data, path)
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as error:
        if _mostly_utf8(data):
            raise _broken(data, error, "UTF-8", path) from error
    guess = chardet.detect(data, max_bytes=len(data))
    name = guess["encoding"] or "cp1252"
    # Bytes that Windows-1252 leaves undefined show that it is something else.
    if (guess["confidence"] or 0.0) < _SURE and not set(data) & {0x81, 0x8D, 0x8F, 0x90, 0x9D}:
        name = "cp1252"
    try:
        return data.decode(name), [f"The file is not UTF-8; read as {name}."]
    except (UnicodeDecodeError, LookupError) as error:
        raise InputError(
            "the encoding of the file was not recognised", _RESAVE, path=path, code="encoding_unknown"
        ) from error


def _wide(data: bytes, path: Path | str) -> tuple[str, list[str]]:
    """UTF-16 or UTF-32 without a mark; any other text has no NUL byte."""
    name = chardet.detect(data, max_bytes=len(data))["encoding"]
    if name is not None and name.upper().startswith(("UTF-16", "UTF-32")):
        return _strict(data, name, path), [f"Read as {name.upper()}."]
    _refuse_nul(data.decode("latin-1"), path)
    raise AssertionError("unreachable: a NUL byte was found above")


def _strict(data: bytes, name: str, path: Path | str) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise _broken(data, error, name.upper(), path) from error


def _broken(data: bytes, error: UnicodeDecodeError, name: str, path: Path | str) -> InputError:
    line = data[: error.start].count(b"\n") + 1
    return InputError(
        f"byte 0x{data[error.start]:02X} is not valid {name}",
        f"the text was damaged or mixes two encodings; {_RESAVE}",
        path=path,
        line=line,
        code="encoding_unknown",
    )


def _mostly_utf8(data: bytes) -> bool:
    """True for UTF-8 with a few damaged bytes, false for an 8-bit encoding."""
    text = data.decode("utf-8", errors="replace")
    return sum(ord(c) > 127 and c != "\ufffd" for c in text) > text.count("\ufffd")


def _refuse_nul(text: str, path: Path | str) -> None:
    position = text.find("\0")
    if position >= 0:
        raise InputError(
            "the file holds NUL bytes, so it is not plain text",
            f"it may be a binary file with the wrong suffix, or a damaged copy; {_RESAVE}",
            path=path,
            line=text.count("\n", 0, position) + 1,
            code="nul_bytes",
        )
