"""What people and pipes type into a command."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from finetuneflow.errors import UsageError


def lines() -> Iterator[str]:
    """Lines of stdin that are not blank, stripped; a terminal is asked for each.

    Raises UsageError for bytes that are no UTF-8.
    """
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        try:
            line = sys.stdin.readline()
            line.encode()  # under LANG=C wrong bytes come through, as surrogates
        except UnicodeError as error:
            raise UsageError(
                "stdin is not UTF-8", "convert it first: `iconv -f latin1 -t utf8 FILE`"
            ) from error
        if not line:
            return
        if line.strip():
            yield line.strip()
