"""Projects: what a user works on."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetuneflow.artifacts import utc_now
from finetuneflow.errors import NotFoundError, UsageError
from finetuneflow.schemas.project import Project
from finetuneflow.schemas.recipe import Task
from finetuneflow.services import jobs
from finetuneflow.services.context import Context
from finetuneflow.store import projects as store
from finetuneflow.store import queue


def create_project(
    context: Context, name: str, *, task: Task = "causal_lm", base_model: str = "embedded:tiny"
) -> Project:
    """A new project, status `draft`. Raises UsageError for an empty name."""
    if not name.strip():
        raise UsageError("a project needs a name", "give it one")
    now = utc_now()
    project = Project(
        id=jobs.new_id("proj"),
        name=name.strip(),
        task=task,
        base_model=base_model,
        created_at=now,
        updated_at=now,
    )
    with context.store.write() as session:
        store.add_project(session, project)
    return project


def get_project(context: Context, project_id: str) -> Project:
    """A project by id. Raises NotFoundError."""
    with context.store.read() as session:
        project = store.get_project(session, project_id)
    if project is None:
        raise NotFoundError(f"there is no project `{project_id}`", "list the projects to see their ids")
    return project


def list_projects(context: Context, *, limit: int = 100) -> list[Project]:
    """Projects, newest first."""
    with context.store.read() as session:
        return store.list_projects(session, limit=limit)


def delete_project(context: Context, project_id: str) -> None:
    """Deletes a project with its runs, evaluations and exports; datasets stay.

    Raises NotFoundError, UsageError while one of its jobs is running.
    """
    get_project(context, project_id)
    jobs.settle(context)
    with context.store.write() as session:
        rows = queue.list_jobs(session, project_id=project_id, limit=None)
        for row in rows:
            if row.status not in jobs.ENDED:
                raise UsageError(
                    f"job {row.id} of project {project_id} is {row.status}",
                    f"finetuneflow runs cancel {row.id}",
                )
        folders = [Path(jobs.as_job(context, row).folder) for row in rows]
        store.delete_project(session, project_id)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
