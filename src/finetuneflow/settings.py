"""Where things live and how the machine may be used: `FTF_*` environment variables, read once at a door."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Process-wide settings; passed down, never imported as a global."""

    model_config = ConfigDict(frozen=True)

    home: Path
    """Workspace folder: database, datasets, runs, exports (`FTF_HOME`, default `~/.finetuneflow`)."""
    database_url: str
    """SQLAlchemy URL (`FTF_DATABASE_URL`, default a SQLite file in the workspace)."""
    max_upload_bytes: int = 50 * 1024 * 1024
    """Largest document accepted (`FTF_MAX_UPLOAD_BYTES`)."""
    language: str = "en"
    """Language of reports and prompts shown to people: `en` or `fr` (`FTF_LANGUAGE`)."""


def load_settings() -> Settings:
    """Settings from the environment, by plain reads: pydantic-settings costs 150 ms of start-up."""
    home = Path(os.environ.get("FTF_HOME", "~/.finetuneflow")).expanduser().resolve()
    values: dict[str, object] = {
        "home": home,
        "database_url": os.environ.get("FTF_DATABASE_URL", f"sqlite:///{home / 'finetuneflow.db'}"),
    }
    for name in ("max_upload_bytes", "language"):
        value = os.environ.get(f"FTF_{name.upper()}")
        if value:
            values[name] = value
    return Settings.model_validate(values)
