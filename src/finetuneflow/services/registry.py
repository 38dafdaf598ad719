"""The registry: which run's model serves which role, in a plain file that an application reads."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from finetuneflow.artifacts import REGISTRY
from finetuneflow.deploy import registry
from finetuneflow.errors import UsageError
from finetuneflow.schemas.deployment import RegisteredModel, RegistryEvent
from finetuneflow.services import evaluations, exports, jobs, runs
from finetuneflow.services.context import Context
from finetuneflow.store import queue


def promote(
    context: Context,
    role: str,
    run_id: str,
    *,
    name: str | None = None,
    file: Path | None = None,
    force_reason: str | None = None,
    by: str | None = None,
) -> RegisteredModel:
    """Lets a run's model serve a role; the run's newest evaluation must have the verdict PASS.

    Args:
        context: The workspace.
        role: Such as `sfd_analyzer`.
        run_id: A run that ended well.
        name: What the server calls the model; null: the name of the run's newest deployment, else the
            recipe's `output_model_name` or the run's name, when there is a GGUF export whose check passed.
        file: The application's own registry; null: `models.yaml` in the workspace.
        force_reason: Why it is promoted without PASS; recorded.
        by: Who promotes; null: the user of this process.

    Raises:
        NotFoundError: no such run.
        UsageError: no PASS and no reason; or nothing serves the run and no name was given.
        InputError: the file cannot be changed.
    """
    run, _ = runs.finished(context, run_id)
    evaluation = evaluations.latest(context, run_id)
    verdict = evaluation.verdict.outcome if evaluation and evaluation.verdict else None
    served = exports.latest_gguf(context, run_id)
    deployed = _deployed_as(context, run_id)
    if name is None and served is None and deployed is None:
        raise UsageError(
            f"nothing serves run {run_id}: it has no deployment and no GGUF export whose check passed",
            f"`finetuneflow deploy ollama {run_id}`, `finetuneflow export {run_id} --to gguf`, or give the "
            "name under which another server answers: `--name`",
        )
    return registry.promote(
        file or default_file(context),
        role=role,
        model_name=name or deployed or run.recipe.output_model_name or run.name,
        run_id=run.id,
        export_id=served[0].id if served else None,
        verdict=verdict,
        by=by or user_name(),
        force_reason=force_reason,
    )


def rollback(
    context: Context, role: str, *, file: Path | None = None, reason: str = "", by: str | None = None
) -> RegisteredModel:
    """Takes the last change of a role back. Raises NotFoundError, UsageError, InputError."""
    return registry.rollback(file or default_file(context), role, by=by or user_name(), reason=reason)


def current(context: Context, *, file: Path | None = None) -> list[RegisteredModel]:
    """What serves each role now."""
    return registry.current(file or default_file(context))


def history(context: Context, *, role: str | None = None, file: Path | None = None) -> list[RegistryEvent]:
    """Every change, or those of one role, oldest first."""
    events = registry.history(file or default_file(context))
    return [event for event in events if role in (None, event.role)]


def default_file(context: Context) -> Path:
    """The workspace's own registry."""
    return context.workspace.home / REGISTRY


def user_name() -> str:
    """The user of this process, for the record."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _deployed_as(context: Context, run_id: str) -> str | None:
    """The name in the newest deployment of a run that ended well and answers as it should."""
    with context.store.read() as session:
        rows = queue.list_jobs(session, statuses=("success",), limit=None)
    for row in rows:
        if row.kind == "deploy" and row.spec.get("inputs", {}).get("run_id") == run_id:
            result = jobs.ensure_success(context, row.id).result
            if result.get("passed") and result.get("name"):
                return str(result["name"])
    return None
