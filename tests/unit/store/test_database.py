"""The database: made from nothing, at its head, safe for several processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from finetuneflow.errors import StorageError, UsageError
from finetuneflow.schemas.job import JobSpec
from finetuneflow.schemas.project import Project
from finetuneflow.store import queue
from finetuneflow.store.database import HEAD, ConstraintViolation, open_store
from finetuneflow.store.projects import add_project, delete_project, get_project, list_projects
from finetuneflow.store.tables import Base
from finetuneflow.store.upgrade import alembic_config

NOW = "2026-01-01T00:00:00.000+00:00"


def project(project_id: str = "proj-1") -> Project:
    return Project(id=project_id, name="Été", created_at=NOW, updated_at=NOW)


def test_migrations_make_the_schema_that_the_tables_describe(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")
    with store.engine.connect() as connection:
        migration = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(migration, Base.metadata) == []
    store.close()


def test_the_head_in_the_code_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_every_migration_can_be_taken_back(tmp_path: Path) -> None:
    script = ScriptDirectory.from_config(alembic_config())
    assert all(callable(revision.module.downgrade) for revision in script.walk_revisions())


def test_a_database_at_its_head_is_opened_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    open_store(url).close()
    code = (
        "import sys; from finetuneflow.store.database import open_store; "
        f"open_store({url!r}).close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")
    with store.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert (session.execute(text("PRAGMA busy_timeout")).scalar() or 0) >= 10_000
    store.close()


def test_many_openings_at_once_make_one_schema(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            open_store(url).close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_many_writers_wait_for_each_other(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")
    errors: list[Exception] = []

    def write(number: int) -> None:
        try:
            for step in range(5):
                with store.write() as session:
                    add_project(session, project(f"proj-{number}-{step}"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with store.read() as session:
        assert len(list_projects(session)) == 40
    store.close()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")

    def write_and_fail() -> None:
        with store.write() as session:
            add_project(session, project())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    with store.read() as session:
        assert get_project(session, "proj-1") is None
    store.close()


def test_a_row_that_points_nowhere_is_refused(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")
    spec = JobSpec(id="run-1", kind="train", config={}, inputs={})
    with pytest.raises(ConstraintViolation), store.write() as session:
        queue.add_job(session, spec, request_hash="", project_id="proj-none")
    store.close()


def test_deleting_a_project_deletes_its_jobs(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")
    with store.write() as session:
        add_project(session, project())
        queue.add_job(
            session,
            JobSpec(id="run-1", kind="train", config={}, inputs={}),
            request_hash="",
            project_id="proj-1",
        )
    with store.write() as session:
        assert delete_project(session, "proj-1")
    with store.read() as session:
        assert queue.get_job(session, "run-1") is None
    store.close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    open_store(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StorageError, match="9999"):
        open_store(f"sqlite:///{path}")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"this is not a database at all, it is text\n" * 100)
    with pytest.raises(StorageError, match=r"a\.db"):
        open_store(f"sqlite:///{path}")


@pytest.mark.parametrize("url", ["nonsense", "mysql://u@h/d", "sqlite:/x y z"])
def test_a_url_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert "FTF_DATABASE_URL" in caught.value.hint
