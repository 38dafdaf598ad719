"""Errors that nobody foresaw. Reached by name from `app.py`, for settings are slow to import."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from pathlib import Path

from finetuneflow.cli.output import say_error
from finetuneflow.settings import load_settings


def report_crash(error: BaseException) -> None:
    """Tells of an error nobody foresaw in one line, and puts the traceback where it can be sent from."""
    details = "".join(traceback.format_exception(error))
    summary = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    say_error(
        f"something unexpected happened ({summary})",
        f"the details are in {_keep(details)}; please report them",
    )


def _keep(details: str) -> Path:
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    try:
        folder = load_settings().home / "crashes"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):
        # The workspace may itself be what is broken.
        folder = Path(tempfile.gettempdir())
    path = folder / name
    path.write_text(details, encoding="utf-8")
    return path
