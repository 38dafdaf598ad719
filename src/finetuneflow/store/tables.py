"""Tables. Columns are what is searched or sorted by; the rest of a schema lies in a JSON column."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Boolean, Double, ForeignKey, Index, Integer, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Named constraints, so that a migration can alter them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {str: Text(), dict[str, Any]: JSON()}


class ProjectRow(Base):
    """`schemas.project.Project`."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    task: Mapped[str]
    base_model: Mapped[str]
    status: Mapped[str]
    created_at: Mapped[str] = mapped_column(index=True)
    updated_at: Mapped[str]


class SourceRow(Base):
    """An uploaded file."""

    __tablename__ = "sources"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    details: Mapped[dict[str, Any]]
    created_at: Mapped[str]


class DatasetRow(Base):
    """`schemas.dataset.DatasetVersion`; the payload holds what no query needs."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="SET NULL"), index=True)
    name: Mapped[str]
    task: Mapped[str]
    content_hash: Mapped[str] = mapped_column(unique=True)
    frozen: Mapped[bool] = mapped_column(Boolean)
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[str] = mapped_column(index=True)


class JobRow(Base):
    """`schemas.job.Job`, with what the queue needs."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_status_lease", "status", "lease_expires_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    status: Mapped[str]
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    request_hash: Mapped[str]
    """What the job was asked to do: the same key with another hash is refused."""
    spec: Mapped[dict[str, Any]]
    """The `JobSpec`, so that a job folder can be made again."""
    attempts: Mapped[int] = mapped_column(Integer)
    """Number of starts; also the fencing number: an outcome of an older attempt is not taken."""
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[float | None] = mapped_column(Double)
    """Seconds since 1970; renewed while the supervisor lives."""
    error_code: Mapped[str]
    error: Mapped[str]
    hint: Mapped[str]
    created_at: Mapped[str] = mapped_column(index=True)
    started_at: Mapped[str | None]
    finished_at: Mapped[str | None]


class RunRow(Base):
    """`schemas.run.Run`; status and result come from the job of the same id."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    name: Mapped[str]
    recipe: Mapped[dict[str, Any]]
    created_at: Mapped[str] = mapped_column(index=True)


class EvaluationRow(Base):
    """An evaluation of a run; status and result come from the job of the same id."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    created_at: Mapped[str]


class ExportRow(Base):
    """An export of a run; status and result come from the job of the same id."""

    __tablename__ = "exports"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[str]
