"""A growing answer, shown piece by piece so that the pieces make exactly the whole answer."""

from __future__ import annotations

from collections.abc import Sequence

HALF_CHARACTER = "\ufffd"


class GrowingText:
    """What of an answer may be shown already: no half character, no text that may become a stop text."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.shown = ""
        """All that was given out."""
        self.stopped = False
        """A stop text was met: the answer ends before it."""
        self._stop = stop

    def grow(self, text: str, *, last: bool = False) -> str:
        """The next piece.

        Args:
            text: The whole answer so far; white space around an answer does not count.
            last: Nothing follows.
        """
        text = text.lstrip()
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            text = text[: min(found)]
        elif not last:
            text = self._certain(text)
        text = text.rstrip()
        if not text.startswith(self.shown):
            return ""  # a tokenizer that rewrites what it wrote; the end of the answer settles it
        piece = text[len(self.shown) :]
        self.shown = text
        return piece

    def _certain(self, text: str) -> str:
        text = text.rstrip(HALF_CHARACTER)
        held = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(text)), held, -1):
                if text.endswith(stop[:length]):
                    held = length
                    break
        return text[: len(text) - held]
