"""Makes a model repository of a Hugging Face hub hold just the files of an upload: a program of its own.

Run as `python -m finetuneflow.providers.model_hub`: one JSON `Upload` on stdin, events as JSON lines on
stdout, the token in `HF_TOKEN` and nowhere else. What starts it needs no hub library.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from finetuneflow.errors import FineTuneFlowError, UsageError
from finetuneflow.schemas.base import Schema

LIBRARY = "finetuneflow"
KEPT = ".gitattributes"
"""The hub's own file: it says which files are large."""
THREADS = 2
"""Large files at a time."""
REPORT_BYTES = 1 << 20
LONGEST_REASON = 300
AGAIN = "push again: files that arrived are not sent twice, and all appear at once or none does"
QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")


class HubError(FineTuneFlowError):
    """A model hub that cannot be reached, refuses, or is not what it should be."""

    code = "hub_failed"


class UploadFile(Schema):
    """One file: from disk, or as text."""

    path: str
    """In the repository."""
    source: str | None = None
    """On this machine."""
    text: str | None = None
    sha256: str | None = None
    """What the file had when it was exported."""


class Upload(Schema):
    """What to upload where."""

    endpoint: str
    repository: str
    """`owner/name`."""
    public: bool = False
    message: str
    files: list[UploadFile]
    removed: list[str] | None = None
    """Files that the commit removes, as `look` gave them; null: only look."""


class Looked(Schema):
    """What an upload would change beside adding its files."""

    removed: list[str]
    """Files that the repository has and the upload does not."""


class Uploaded(Schema):
    """What the hub has now."""

    url: str
    commit: str
    public: bool
    created: bool
    """True when the repository was made for this upload."""


class _Counted(io.BufferedReader):
    """A file that tells how far it was read; sent again after a failure, it counts from the start again."""

    def __init__(self, path: Path, report: Callable[[str, int], None], name: str) -> None:
        super().__init__(io.FileIO(path))
        self._report, self._label = report, name

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._report(self._label, self.tell())
        return data


class _Progress:
    """Bytes of all files that were read, once for their sums and once to be sent."""

    def __init__(self, emit: Callable[[dict[str, Any]], None], total: int) -> None:
        self._emit, self._total = emit, total
        self._lock = threading.Lock()
        self.begin("sums")

    def begin(self, stage: str) -> None:
        """From here on, reading is for this."""
        self._stage, self._told = stage, 0
        self._done: dict[str, int] = {}

    def read(self, name: str, position: int) -> None:
        """A file was read up to a position."""
        with self._lock:
            self._done[name] = max(position, self._done.get(name, 0))
            done = sum(self._done.values())
            if done - self._told >= REPORT_BYTES or done == self._total > self._told:
                self._told = done
                self._emit({"stage": self._stage, "done": done, "total": self._total})


def look(request: Upload, token: str) -> Looked:
    """Which files an upload would remove: those of an earlier one that it does not bring. Changes nothing.

    Raises what `upload` raises.
    """
    api = HfApi(endpoint=request.endpoint, token=token, library_name=LIBRARY)
    _check_owner(api, request)
    info = _find(api, request.repository)
    if info is not None:
        _check_visibility(request, info, created=False)
    return Looked(removed=_others(request, info))


def upload(request: Upload, token: str, emit: Callable[[dict[str, Any]], None]) -> Uploaded:
    """Makes the repository when there is none, sends every file, and commits them all at once.

    Nothing is sent to a repository that is more public than asked for. An upload that breaks leaves the
    repository as it was.

    Raises:
        UsageError: the owner is somebody else, or the repository is public (private) already, or has other
            files to remove than were told.
        HubError: unreachable, refused, or not what was asked for.
    """
    api = HfApi(endpoint=request.endpoint, token=token, library_name=LIBRARY)
    _check_owner(api, request)
    info = _find(api, request.repository)
    created = info is None
    if created:
        api.create_repo(request.repository, private=not request.public, repo_type="model")
        info = _find(api, request.repository)
    public = _check_visibility(request, info, created)
    removed = _others(request, info)
    if set(removed) != set(request.removed or []):
        raise UsageError(
            f"the files of `{request.repository}` have just changed: nothing was sent", "push again"
        )
    large = sum(Path(file.source).stat().st_size for file in request.files if file.source)
    progress = _Progress(emit, large)
    operations = [_operation(file, progress) for file in request.files]
    _check_unchanged(request, operations)
    progress.begin("upload")
    commit = api.create_commit(
        request.repository,
        [*operations, *(CommitOperationDelete(path, is_folder=False) for path in removed)],
        commit_message=request.message,
        repo_type="model",
        num_threads=THREADS,
    )
    _check_arrived(api, request, operations)
    return Uploaded(
        url=f"{request.endpoint}/{request.repository}",
        commit=commit.oid,
        public=public,
        created=created,
    )


def _check_owner(api: HfApi, request: Upload) -> None:
    """Whether the token may write under that name, before anything is made."""
    owner = request.repository.partition("/")[0]
    known = api.whoami()
    names = [str(known.get("name"))]
    names += [str(group.get("name")) for group in known.get("orgs", []) if isinstance(group, dict)]
    if owner.lower() not in [name.lower() for name in names]:
        raise UsageError(
            f"the token belongs to `{names[0]}`, who cannot write to `{owner}`",
            f"push to one of: {', '.join(f'`{name}`' for name in names)}",
            code="hub_other_owner",
        )


def _find(api: HfApi, repository: str) -> ModelInfo | None:
    """What the hub knows of a repository; None when there is no such one."""
    try:
        return api.model_info(repository)
    except RepositoryNotFoundError as error:
        if error.response.status_code == 401:
            raise
        return None


def _others(request: Upload, info: ModelInfo | None) -> list[str]:
    """Files of the repository that the upload does not bring."""
    brought = {KEPT, *(file.path for file in request.files)}
    there = [sibling.rfilename for sibling in info.siblings or []] if info else []
    return sorted(set(there) - brought)


def _check_visibility(request: Upload, info: ModelInfo | None, created: bool) -> bool:
    """True for public."""
    name = request.repository
    if info is None:
        raise HubError(f"the hub made `{name}` and does not find it", "try again in a moment")
    public = info.private is not True
    if public and not request.public:
        despite = ", though it was asked for as private" if created else ""
        raise UsageError(
            f"`{name}` is public{despite}: nothing was sent",
            "make it private in its settings on the hub, choose another name, or say `--public`",
            code="hub_public",
        )
    if request.public and not public:
        raise UsageError(
            f"`{name}` is private: nothing was sent",
            "leave `--public` out, or make it public in its settings on the hub first",
            code="hub_private",
        )
    return public


def _operation(file: UploadFile, progress: _Progress) -> CommitOperationAdd:
    if file.source is None:
        return CommitOperationAdd(file.path, (file.text or "").encode())
    return CommitOperationAdd(file.path, _Counted(Path(file.source), progress.read, file.path))


def _check_unchanged(request: Upload, operations: list[CommitOperationAdd]) -> None:
    for file, operation in zip(request.files, operations, strict=True):
        if file.sha256 and operation.upload_info.sha256.hex() != file.sha256:
            raise UsageError(
                f"`{file.path}` has changed since it was exported: nothing was sent", "export the run again"
            )


def _check_arrived(api: HfApi, request: Upload, operations: list[CommitOperationAdd]) -> None:
    """Every file is there, with its size, and large ones with their sum; and no other."""
    info = api.model_info(request.repository, files_metadata=True)
    there = {sibling.rfilename: sibling for sibling in info.siblings or []}
    wrong = _others(request, info)
    for operation in operations:
        sibling = there.get(operation.path_in_repo)
        sent = operation.upload_info
        same = sibling is not None and sibling.size in (None, sent.size)
        if same and sibling is not None and sibling.lfs is not None:
            same = sibling.lfs.sha256 == sent.sha256.hex()
        if not same:
            wrong.append(operation.path_in_repo)
    if wrong:
        raise HubError(f"the hub has other files than were sent: {', '.join(wrong)}", "push again")


def explain(error: Exception, request: Upload) -> FineTuneFlowError:
    """An error of the hub or of the way there, in a person's words and with the way out."""
    if isinstance(error, FineTuneFlowError):
        return error
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OfflineModeIsEnabled):
        return UsageError("HF_HUB_OFFLINE is set: nothing can be sent", "unset it", code="hub_offline")
    if cause is None:
        return HubError(f"the upload to {request.endpoint} broke: {_reason(error)}", AGAIN, code="hub_broken")
    status = cause.response.status_code
    told = _reason(cause)
    if (
        cause.response.request.method == "PUT"
    ):  # the address of a large file, good for one upload and some minutes
        return HubError(
            f"the upload to {request.endpoint} broke: a file was refused with {status}: {told}",
            AGAIN,
            code="hub_broken",
        )
    if status == 401:
        return HubError(
            f"the hub {request.endpoint} does not accept the token",
            "set HF_TOKEN to a token of yours that may write",
            code="hub_token",
        )
    if status == 403:
        return HubError(
            f"the hub {request.endpoint} refuses: the token may not write to `{request.repository}` ({told})",
            "use a token with write access, or push under your own name",
            code="hub_forbidden",
        )
    return HubError(f"the hub {request.endpoint} answered {status}: {told}", AGAIN)


def _reason(error: BaseException) -> str:
    """The words of an error, one line; of addresses without what may be a signature."""
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return QUERY.sub(r"\1", " ".join(str(said).split()))[:LONGEST_REASON]


def main() -> int:
    """The program: gives 0 when everything was sent; the last line on stdout has `result` or `error`."""
    warnings.simplefilter("ignore")
    token = os.environ.get("HF_TOKEN", "").strip()
    request = Upload.model_validate_json(sys.stdin.buffer.read())
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        line = json.dumps(event)
        with lock:
            sys.stdout.write((line.replace(token, "***") if token else line) + "\n")
            sys.stdout.flush()

    try:
        done = look(request, token) if request.removed is None else upload(request, token, emit)
        emit({"result": done.model_dump()})
    except Exception as error:
        told = explain(error, request)
        emit(
            {"error": {"message": told.message, "hint": told.hint, "code": told.code, "exit": told.exit_code}}
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
