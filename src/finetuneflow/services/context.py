"""What every service needs: settings, workspace folders, the database and the way to run jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from finetuneflow.artifacts import Workspace, disk_errors
from finetuneflow.errors import StorageError
from finetuneflow.jobs.local import LocalExecutor
from finetuneflow.settings import Settings, load_settings
from finetuneflow.store.database import Store, open_store


@dataclass(frozen=True)
class Context:
    """Passed as first argument to every service function."""

    settings: Settings
    workspace: Workspace
    store: Store
    executor: LocalExecutor = field(default_factory=LocalExecutor)


def open_context(settings: Settings | None = None) -> Context:
    """A context over the workspace of `settings` (default: the environment's), its database up to date.

    Call `close_context` when done, or use `using_context` as a `with` block. Raises StorageError when the
    workspace cannot be written.
    """
    settings = settings or load_settings()
    try:
        with disk_errors(settings.home):
            settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the workspace `{settings.home}` cannot be made: {error.strerror}"
        raise StorageError(message, "choose another FTF_HOME") from error
    store = open_store(settings.database_url)
    return Context(settings=settings, workspace=Workspace(settings.home), store=store)


def close_context(context: Context) -> None:
    """Closes the database connections; running jobs go on."""
    context.store.close()


@contextmanager
def using_context(settings: Settings | None = None) -> Iterator[Context]:
    """`open_context` and `close_context` around a `with` block."""
    context = open_context(settings)
    try:
        yield context
    finally:
        close_context(context)
