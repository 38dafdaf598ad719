"""Projects in the database."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from finetuneflow.schemas.project import Project
from finetuneflow.store.tables import ProjectRow


def add_project(session: Session, project: Project) -> None:
    """Keeps a new project."""
    session.add(ProjectRow(**project.model_dump()))
    session.flush()


def get_project(session: Session, project_id: str) -> Project | None:
    """A project by id."""
    row = session.get(ProjectRow, project_id)
    return None if row is None else _as_project(row)


def list_projects(session: Session, *, limit: int | None = 100) -> list[Project]:
    """Projects, newest first."""
    query = select(ProjectRow).order_by(ProjectRow.created_at.desc(), ProjectRow.id.desc()).limit(limit)
    return [_as_project(row) for row in session.scalars(query)]


def delete_project(session: Session, project_id: str) -> bool:
    """Deletes a project's row with its runs and jobs; False when there is none."""
    row = session.get(ProjectRow, project_id)
    if row is None:
        return False
    session.delete(row)
    session.flush()
    return True


def _as_project(row: ProjectRow) -> Project:
    columns = {name: getattr(row, name) for name in Project.model_fields}
    return Project.model_validate(columns)
