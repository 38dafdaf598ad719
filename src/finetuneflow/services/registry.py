"""The registry: which run's model serves which role, in a plain file that an application reads."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import NamedTuple

from finetuneflow.artifacts import REGISTRY
from finetuneflow.deploy import registry
from finetuneflow.errors import UsageError
from finetuneflow.providers.modelfile import full_name
from finetuneflow.schemas.deployment import RegisteredModel, RegistryEvent
from finetuneflow.services import evaluations, exports, runs
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
        UsageError: no PASS and no reason; nothing serves the run and no name was given; or another run was
            deployed under the name.
        InputError: the file cannot be changed.
    """
    run, _ = runs.finished(context, run_id)
    evaluation = evaluations.latest(context, run_id)
    verdict = evaluation.verdict.outcome if evaluation and evaluation.verdict else None
    served = exports.latest_gguf(context, run_id)
    own = run.recipe.output_model_name or run.name
    deployed = _deployed_as(context, run_id, name, own)
    if name is None and served is None and deployed is None:
        raise UsageError(
            f"nothing serves run {run_id}: it has no deployment and no GGUF export whose check passed",
            f"`finetuneflow deploy ollama {run_id}`, `finetuneflow export {run_id} --to gguf`, or give the "
            "name under which another server answers: `--name`",
        )
    exported = served[0].id if served and name in (None, own) else None
    return registry.promote(
        file or default_file(context),
        role=role,
        model_name=name or (deployed.name if deployed else own),
        run_id=run.id,
        export_id=deployed.export_id if deployed else exported,
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


class _Deployment(NamedTuple):
    """Under which name what was deployed where."""

    name: str
    url: str
    run_id: str
    export_id: str


def _deployments(context: Context) -> list[_Deployment]:
    """Those that ended well, and so answer as they should; newest first."""
    with context.store.read() as session:
        rows = queue.list_jobs(session, statuses=("success",), kind="deploy", limit=None)
    known = [row.spec["config"] | row.spec["inputs"] for row in rows]
    return [_Deployment(*(spec[key] for key in _Deployment._fields)) for spec in known]


def _deployed_as(context: Context, run_id: str, name: str | None, own: str) -> _Deployment | None:
    """The newest deployment of a run, or that under a name; None when there is none.

    Raises UsageError when another run has taken the name there since.
    """
    known = _deployments(context)
    mine = [one for one in known if one.run_id == run_id and (name is None or _same(one.name, name))]
    deployed = mine[0] if mine else None
    wanted = deployed.name if deployed else name or own
    there = [
        one for one in known if _same(one.name, wanted) and (deployed is None or one.url == deployed.url)
    ]
    if there and there[0].run_id != run_id:
        raise UsageError(
            f"`{wanted}` at {there[0].url} is the model of run {there[0].run_id}, which was deployed last",
            f"deploy run {run_id} again, under a name of its own: `finetuneflow deploy ollama {run_id} "
            "--name NAME`",
        )
    return deployed


def _same(name: str, other: str) -> bool:
    """Whether a server takes two names for one."""
    return full_name(name).lower() == full_name(other).lower()
