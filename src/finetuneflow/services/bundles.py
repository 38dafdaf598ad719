"""Bundles: is what was handed over whole?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetuneflow.export.bundle_check import VerifiedBundle, verify_bundle


def verify(path: Path, *, on_progress: Callable[[int, int], None] | None = None) -> VerifiedBundle:
    """Every file of a bundle (zip or folder) against its manifest, and what its parity check found.

    `on_progress` hears of bytes done and bytes in all. Raises NotFoundError.
    """
    return verify_bundle(path.expanduser(), on_progress=on_progress)
