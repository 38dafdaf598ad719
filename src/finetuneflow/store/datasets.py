"""Dataset versions in the database."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from finetuneflow.schemas.dataset import DatasetVersion
from finetuneflow.store.tables import DatasetRow


def add_dataset(session: Session, version: DatasetVersion, *, project_id: str | None = None) -> None:
    """Keeps a version; its folder is not kept, it follows from the id."""
    session.add(
        DatasetRow(
            id=version.id,
            project_id=project_id,
            name=version.name,
            task=version.task,
            content_hash=version.content_hash,
            frozen=version.frozen,
            payload=version.model_dump(mode="json", exclude={"path"}),
            created_at=version.created_at,
        )
    )
    session.flush()


def get_dataset(session: Session, dataset_id: str) -> DatasetVersion | None:
    """A version by id."""
    row = session.get(DatasetRow, dataset_id)
    return None if row is None else _as_version(row)


def list_datasets(session: Session, *, limit: int | None = 100) -> list[DatasetVersion]:
    """Versions, newest first."""
    query = select(DatasetRow).order_by(DatasetRow.created_at.desc(), DatasetRow.id.desc()).limit(limit)
    return [_as_version(row) for row in session.scalars(query)]


def find_datasets(session: Session, prefix: str) -> list[str]:
    """Ids of the versions whose id begins with `prefix`."""
    query = select(DatasetRow.id).where(DatasetRow.id.startswith(prefix, autoescape=True))
    return list(session.scalars(query))


def freeze_dataset(session: Session, dataset_id: str) -> None:
    """Marks a version as used by a run."""
    row = session.get(DatasetRow, dataset_id)
    if row is not None:
        row.frozen = True
        session.flush()


def _as_version(row: DatasetRow) -> DatasetVersion:
    return DatasetVersion.model_validate({**row.payload, "name": row.name, "frozen": row.frozen})
