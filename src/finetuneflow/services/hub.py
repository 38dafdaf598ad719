"""Pushing an export to a model hub: private unless asked otherwise, and never a row of the dataset."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from finetuneflow.artifacts import read_examples, split_file
from finetuneflow.errors import DependencyError, FineTuneFlowError, NotFoundError, UsageError
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.job import Job
from finetuneflow.services import datasets, exports, jobs, runs
from finetuneflow.services.context import Context
from finetuneflow.services.hub_files import HubFile, LeftOut, choose, refuse_rows

MODULE = "finetuneflow.providers.model_hub"
HUB = "https://huggingface.co"
TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
REPOSITORY = re.compile(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?/[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?")
SPLITS = ("train", "validation", "test")
ENVIRONMENT = {
    "HF_HUB_DISABLE_XET": "1",  # plain HTTP uploads, which every hub and mirror speaks
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_DEBUG": "0",  # it would print requests
}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
OnProgress = Callable[[str, int, int], None]


class PushPlan(Schema):
    """What would be sent where."""

    repository: str
    """`owner/name`."""
    endpoint: str
    public: bool
    """For everyone to see; else the repository is private, or nothing is sent."""
    run_id: str
    export_id: str
    files: list[HubFile]
    left_out: list[LeftOut] = Field(default_factory=list)
    removed: list[str] = Field(default_factory=list)
    """Files that the repository has from before, and that go."""
    size_bytes: int


class Pushed(Schema):
    """What the hub has now."""

    url: str
    commit: str
    public: bool
    created: bool
    """True when the repository was made for this."""


def plan(context: Context, reference: str, repository: str, *, public: bool = False) -> PushPlan:
    """What a push of an export (or of a run's newest one) would send and remove; nothing is sent.

    Args:
        context: The workspace.
        reference: Id of an export or of a run.
        repository: `owner/name`; the hub is asked which files it has. The token is `HF_TOKEN`.
        public: For everyone to see; else the repository is private, or it is refused.

    Raises:
        NotFoundError: no such run or export.
        UsageError: not `owner/name`, no finished export, an address that would show the token, no token,
            another owner, or a repository that is more public than asked for.
        DependencyError: no hub library.
        FineTuneFlowError: a text of the export holds a row of the dataset; or the hub cannot be reached.
    """
    if not REPOSITORY.fullmatch(repository) or "--" in repository or ".." in repository:
        raise UsageError(f"`{repository}` is not a repository", "write `owner/name`, as in `lea/my-model`")
    endpoint = _endpoint()
    job = _export(context, reference)
    result = exports.result(context, job.id)
    run, trained = runs.finished(context, result.run_id)
    version = datasets.get_dataset(context, run.dataset_id)
    paths = [trained.base_model, run.recipe.base_model, run.recipe.dataset, str(context.workspace.home)]
    files, left_out = choose(
        Path(job.folder),
        result.files,
        name=run.name,
        run_id=run.id,
        private_paths=[path for path in paths if Path(path).is_absolute()],
    )
    refuse_rows(files, _examples(Path(version.path)))
    known = PushPlan(
        repository=repository,
        endpoint=endpoint,
        public=public,
        run_id=run.id,
        export_id=job.id,
        files=files,
        left_out=left_out,
        size_bytes=sum(file.size_bytes for file in files),
    )
    return known.model_copy(update=_ask(known, removed=None))


def push(plan: PushPlan, *, on_progress: OnProgress | None = None) -> Pushed:
    """Sends what was planned, in one commit.

    Args:
        plan: What `plan` gave.
        on_progress: Hears of the stage, bytes done and bytes in all.

    Raises:
        UsageError: what `plan` refuses, or files came to the repository since.
        FineTuneFlowError: the hub refuses or cannot be reached; nothing was published.
    """
    return Pushed.model_validate(_ask(plan, removed=plan.removed, on_progress=on_progress))


def _ask(
    plan: PushPlan, *, removed: list[str] | None, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """The hub's answer, by a process of its own: to a look when `removed` is None, else to the upload."""
    if not os.environ.get(TOKEN, "").strip():
        raise UsageError(
            f"{TOKEN} is not set: the hub will not know who pushes",
            f"put a token that may write into the environment variable {TOKEN}",
            code="hub_token",
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise DependencyError("huggingface_hub", "train", "to push to a model hub")
    request = {
        "endpoint": plan.endpoint,
        "repository": plan.repository,
        "public": plan.public,
        "removed": removed,
        "message": f"finetuneflow {plan.run_id}",
        "files": [
            file.model_dump(include={"path", "source", "text"})
            | ({"sha256": file.sha256} if file.source else {})
            for file in plan.files
        ],
    }
    with closing(_run(request)) as events:
        for event in events:
            if "error" in event:
                error = event["error"]
                kind = UsageError if error["exit"] == UsageError.exit_code else FineTuneFlowError
                raise kind(error["message"], error["hint"], code=error["code"])
            if "result" in event:
                result: dict[str, Any] = event["result"]
                return result
            if on_progress:
                on_progress(event["stage"], event["done"], event["total"])
    raise AssertionError("unreachable: the last event is a result or an error")


def _run(request: dict[str, Any]) -> Generator[dict[str, Any]]:
    """Events of the uploading process; it ends with us."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | ENVIRONMENT,
            text=True,
            encoding="utf-8",
        )
        try:
            if process.stdin is None or process.stdout is None:
                raise FineTuneFlowError("the upload's process has no pipes")
            with suppress(BrokenPipeError):  # it died at once, and its log says why
                process.stdin.write(json.dumps(request))
                process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
            process.wait()
            log.seek(0)
            last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise FineTuneFlowError(
                f"the upload's process ended: {last.replace(os.environ[TOKEN].strip(), '***')}",
                "push again: all files appear at once or none does",
                code="hub_broken",
            )
        finally:
            process.terminate()
            process.wait()
            if process.stdout:
                process.stdout.close()


def _endpoint() -> str:
    """The hub's address, by `HF_ENDPOINT`; one that would carry the token in the clear is refused."""
    address = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or HUB
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError("HF_ENDPOINT is not the address of a hub", f"unset it, or give one such as {HUB}")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise UsageError(
            f"the token would travel unencrypted to {parts.hostname}", "give HF_ENDPOINT an https address"
        )
    return address


def _export(context: Context, reference: str) -> Job:
    """An export by id, or the newest one of a run that ended well."""
    if reference.startswith(exports.PREFIX):
        job = jobs.get_job(context, reference)
        if job.kind == "export":
            return job
    runs.get_run(context, reference)
    for job, _ in exports.finished(context, reference):
        return job
    raise NotFoundError(
        f"run {reference} has no export to push", f"`finetuneflow export {reference}` makes one"
    )


def _examples(folder: Path) -> Iterator[Example]:
    for split in SPLITS:
        path = split_file(folder, split)
        if path.is_file():
            yield from read_examples(path)
