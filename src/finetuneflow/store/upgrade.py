"""Migrations: Alembic, run inside one transaction of ours. Imported only when the schema is behind."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from finetuneflow.errors import StorageError
from finetuneflow.store.database import HEAD

_ADVISORY_LOCK = 7310422001


def alembic_config() -> Config:
    """Alembic's configuration; the migrations lie inside the package."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def upgrade(engine: Engine) -> None:
    """Brings the schema to its head, or leaves it as it was. Two processes may call it at once.

    Raises StorageError when the database was made by a newer version.
    """
    config = alembic_config()
    with engine.execution_options(finetuneflow_writes=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        if engine.dialect.has_table(connection, "alembic_version"):
            current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if current is not None and current not in known:
                raise StorageError(
                    f"the database is of revision {current}, this version knows up to {HEAD}",
                    "upgrade finetuneflow, or use another FTF_HOME",
                )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
