"""How the command line speaks: stdout carries data and nothing else, stderr everything meant for people.

The help passes through here: nothing slow to import.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def print_line(text: str = "") -> None:
    """Prints a line of data to stdout."""
    sys.stdout.write(text + "\n")


def say(text: str = "") -> None:
    """Tells the user something: to stderr, so that stdout stays clean."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def visible(text: str) -> str:
    """Text from data or a model without the control characters that would steer a terminal."""
    return text.translate(CONTROL)


def has_colour(stream: TextIO) -> bool:
    """True where colours help: a terminal, and nobody said `NO_COLOR`."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO) -> str:
    """Text in an ANSI style, such as `1;31`, where the stream shows it."""
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour(stream) else text


def say_error(message: str, hint: str = "") -> None:
    """Prints what went wrong and the way out: `error:`, a blank line, `hint:`."""
    say(f"{paint('error:', '1;31', sys.stderr)} {visible(message)}")
    if hint:
        say()
        say(f"{paint('hint:', '1;36', sys.stderr)} {visible(hint)}")


def say_warning(message: str) -> None:
    """Prints something to look at that stops nothing."""
    say(f"{paint('warning:', '1;33', sys.stderr)} {visible(message)}")
