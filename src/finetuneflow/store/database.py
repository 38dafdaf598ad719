"""The database: opened, set up for several processes, migrated when it is behind."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.orm import Session as Session  # services name it, and must not speak SQL

from finetuneflow.errors import DependencyError, StorageError, UsageError

HEAD = "0001"
"""Newest revision in `migrations/versions`; a test holds the two together."""
BUSY_TIMEOUT_SECONDS = 30
URL_HINT = "set FTF_DATABASE_URL to sqlite:///… or postgresql://…"
_WRITES = "finetuneflow_writes"


class ConstraintViolation(UsageError):
    """A row that contradicts others: a key that exists already, or one that does not exist."""

    code = "conflict"


class Store:
    """An open database. Sessions are short: read or write, then close."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(**{_WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one consistent state and changes nothing."""
        with storage_errors(self.engine), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that takes the write lock at once, commits at the end, and rolls back on an exception.

        Taking the lock first (SQLite `BEGIN IMMEDIATE`) lets writers queue instead of failing half-way.
        """
        with (
            storage_errors(self.engine),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


def open_store(url: str) -> Store:
    """The database at a SQLAlchemy URL (SQLite or PostgreSQL), made or migrated when needed.

    Raises UsageError for a URL that is none, DependencyError without a driver, StorageError when the
    database cannot be reached or written.
    """
    engine = _engine(url)
    store = Store(engine)
    try:
        with storage_errors(engine):
            if _revision(engine) != HEAD:
                # By name: Alembic costs 100 ms, and almost every start finds the schema at its head.
                import_module("finetuneflow.store.upgrade").upgrade(store.engine)
    except BaseException:
        store.close()
        raise
    return store


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:":
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        if parsed.get_backend_name() == "postgresql":
            if "+" not in parsed.drivername:
                parsed = parsed.set(drivername="postgresql+psycopg")
            return create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError(f"`{url}` is not a database URL", URL_HINT) from error
    except ModuleNotFoundError as error:
        raise DependencyError("psycopg", "postgres", "for a PostgreSQL database") from error
    except OSError as error:
        message = f"the database `{url}` cannot be made: {error.strerror}"
        raise StorageError(message, "choose another FTF_HOME") from error
    raise UsageError(
        f"databases of kind `{parsed.get_backend_name()}` are not supported",
        URL_HINT,
    )


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not open transactions by itself: `_begin_sqlite` says BEGIN, with the lock it needs.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    for attempt in range(50):
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] in ("wal", "memory"):
                return
        except sqlite3.OperationalError:
            # Changing the journal mode does not wait for other connections as everything else does.
            if attempt == 49:
                raise
        time.sleep(0.1)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _revision(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except (OperationalError, ProgrammingError) as error:
        if "alembic_version" in str(error.orig):
            return None
        raise


@contextmanager
def storage_errors(engine: Engine) -> Iterator[None]:
    """Turns what a database says about disk, locks and reachability into one clear error."""
    try:
        yield
    except IntegrityError as error:
        detail = str(error.orig).strip().splitlines()[0]
        raise ConstraintViolation(
            f"the database refuses this: {detail}", "check the ids of project, dataset and run"
        ) from error
    except DatabaseError as error:
        if isinstance(error, ProgrammingError):
            raise  # our own mistake, not the disk's
        where = engine.url.render_as_string(hide_password=True)
        detail = str(error.orig).strip().splitlines()[0]
        if "full" in detail:
            hint = "free some space and run it again"
        elif "readonly" in detail or "unable to open" in detail:
            hint = "choose another FTF_HOME or fix its permissions"
        elif "not a database" in detail or "malformed" in detail:
            hint = "move that file away, or put a backup in its place"
        elif "locked" in detail:
            hint = "another process holds the database; run it again"
        else:
            hint = "check FTF_DATABASE_URL and that the database answers"
        raise StorageError(f"the database `{where}` failed: {detail}", hint) from error
