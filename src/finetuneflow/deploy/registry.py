"""Which model serves which role: `models.yaml`, a plain file that an application reads, and its history.

The file says what is served now and keeps all else that stands in it. The history beside it, one JSON object
a line, says who changed what, when, on which verdict. Both change under one lock, and together.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from finetuneflow.artifacts import REGISTRY, REGISTRY_HISTORY, atomic_write, disk_errors, utc_now
from finetuneflow.deploy.yaml_edit import set_text, texts
from finetuneflow.errors import InputError, NotFoundError, UsageError
from finetuneflow.schemas.deployment import RegisteredModel, RegistryEvent

ROLES = "models"
NAME = "model_name"
PASS = "PASS"  # noqa: S105 - an outcome, no secret
ROLE = re.compile(r"\w[\w.-]{0,99}")
MODEL_NAME = re.compile(r"\w[\w./:@+-]{0,199}")


def promote(
    file: Path,
    *,
    role: str,
    model_name: str,
    run_id: str | None,
    export_id: str | None,
    verdict: str | None,
    by: str,
    force_reason: str | None = None,
) -> RegisteredModel:
    """Lets a model serve a role from now on; the file is made when there is none.

    Args:
        file: The registry, YAML.
        role: Key under `models:`; added when it is new.
        model_name: What the server of the model calls it.
        run_id: The run that it came from.
        export_id: The export that is served.
        verdict: Of the run's newest evaluation; null when there is none.
        by: Who promotes.
        force_reason: Why it is promoted without the verdict PASS.

    Raises:
        UsageError: no PASS and no reason, or a name that cannot stand in the file.
        InputError: the file is not YAML, or cannot be changed in that place.
        StorageError: not writable.
    """
    _check_names(role, model_name)
    reason = (force_reason or "").strip()
    if verdict != PASS and not reason:
        raise UsageError(
            f"{_verdict_words(verdict)}: it is not promoted",
            f"`finetuneflow evaluate {run_id or 'RUN'}` first, or say why all the same: `--force REASON`",
            code="verdict_required",
        )
    file = file.expanduser().resolve()
    set_text(_read(file), (ROLES, role, NAME), model_name, file)  # refused before anything is made
    with _locked(file) as log:
        before = _served(_read(file), file)
        past = [event for event in _events(log) if event.role == role]
        event = RegistryEvent(
            action="promote",
            at=utc_now(),
            by=by,
            role=role,
            version=1 + sum(event.action == "promote" for event in past),
            previous=before.get(role),
            model_name=model_name,
            run_id=run_id,
            export_id=export_id,
            verdict=verdict,
            forced=verdict != PASS,
            reason=reason,
        )
        _record(file, log, event)
    return _registered(event)


def rollback(file: Path, role: str, *, by: str, reason: str = "") -> RegisteredModel:
    """Takes the last change of a role back, however it was made; again, and the one before goes too.

    Raises:
        NotFoundError: no such file or role.
        UsageError: there is nothing to go back to, or another model of the same name.
        InputError: the file is not YAML, or cannot be changed in that place.
    """
    file = file.expanduser().resolve()
    _current_name(file, role)
    with _locked(file) as log:
        name = _current_name(file, role)
        states = _states(role, name, _events(log))
        if len(states) < 2:
            raise UsageError(
                f"there is no model before `{name}` for `{role}` to go back to",
                "`finetuneflow registry history` shows what was promoted",
            )
        last = states[-2]
        if last.model_name == name:
            before, after = (f"run {e.run_id}" if e.run_id else "one set by hand" for e in states[-2:])
            raise UsageError(
                f"`{role}` would keep the name `{name}`, which does not tell the two models apart: {before}, "
                f"then {after}",
                "deploy the earlier model under a name of its own, and promote that",
            )
        event = last.model_copy(
            update={"action": "rollback", "at": utc_now(), "by": by, "previous": name, "forced": False}
            | {"reason": reason.strip()}
        )
        _record(file, log, event)
    return _registered(event)


def current(file: Path) -> list[RegisteredModel]:
    """What serves each role now, in the file's order; a name that was set by hand has no version."""
    file = file.expanduser().resolve()
    past = history(file)
    return [_registered(_states(role, name, past)[-1]) for role, name in _served(_read(file), file).items()]


def history(file: Path) -> list[RegistryEvent]:
    """Every change, oldest first; lines that cannot be read are passed over. Empty when there is none."""
    path = history_file(file.expanduser().resolve())
    if not path.is_file():
        return []
    with path.open("rb") as log:
        return _events(log)


def history_file(file: Path) -> Path:
    """Where the history of a registry stands: beside it."""
    return file.with_name(file.stem + REGISTRY_HISTORY.removeprefix(Path(REGISTRY).stem))


def _check_names(role: str, model_name: str) -> None:
    if not ROLE.fullmatch(role):
        raise UsageError(f"`{role}` cannot be a role", "use letters, digits, `_`, `-` and `.`")
    if not MODEL_NAME.fullmatch(model_name):
        raise UsageError(
            f"`{model_name}` cannot be the name of a model",
            "use letters, digits and `_ - . / : @ +`, as in `applications-ia:v2`",
        )


def _verdict_words(verdict: str | None) -> str:
    return "the run was never evaluated" if verdict is None else f"the newest verdict is {verdict}"


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise InputError("this is not UTF-8 text", "save it as UTF-8", path=file) from error


def _served(text: str, file: Path) -> dict[str, str]:
    """Role to model name."""
    return {
        str(place[1]): value
        for place, value in texts(text, file).items()
        if len(place) == 3 and (place[0], place[2]) == (ROLES, NAME) and value
    }


def _current_name(file: Path, role: str) -> str:
    if not file.is_file():
        raise NotFoundError(f"there is no registry `{file}`", "`finetuneflow registry promote` makes one")
    served = _served(_read(file), file)
    if role not in served:
        known = ", ".join(f"`{name}`" for name in served) or "none"
        raise NotFoundError(f"`{file}` has no model for the role `{role}`", f"the roles are: {known}")
    return served[role]


def _states(role: str, name: str, events: list[RegistryEvent]) -> list[RegistryEvent]:
    """What served the role, oldest first, without what was rolled back; last what the file says now."""
    mine = [event for event in events if event.role == role]
    states: list[RegistryEvent] = []

    def by_hand(found: str | None) -> None:
        if found is not None and (not states or states[-1].model_name != found):
            states.append(
                RegistryEvent(action="promote", at="", by="", role=role, version=0, model_name=found)
            )

    for event, then in zip(mine, [*(event.previous for event in mine), name][1:], strict=True):
        if then == event.previous != event.model_name:
            continue  # its writer died before the file was written, or somebody undid it by hand
        by_hand(event.previous)
        if event.action == "rollback":
            del states[-2:]
        elif states and _model(states[-1]) == _model(event):
            del states[-1]  # promoted again, perhaps on a newer verdict
        states.append(event)
    by_hand(name)
    return states


def _model(event: RegistryEvent) -> tuple[str, str | None, str | None]:
    return event.model_name, event.run_id, event.export_id


def _registered(event: RegistryEvent) -> RegisteredModel:
    return RegisteredModel(
        role=event.role,
        model_name=event.model_name,
        run_id=event.run_id,
        export_id=event.export_id,
        verdict=event.verdict,
        version=event.version,
        promoted_at=event.at,
        promoted_by=event.by,
        reason=event.reason,
    )


@contextmanager
def _locked(file: Path) -> Iterator[IO[bytes]]:
    """The history, open and ours alone until the block ends: it is never replaced, so its lock holds."""
    path = history_file(file)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("a+b", buffering=0)  # nothing is left in memory that a failed write could add later
    with log:
        fcntl.flock(log, fcntl.LOCK_EX)
        yield log


def _events(log: IO[bytes]) -> list[RegistryEvent]:
    log.seek(0)
    events = []
    for line in log.read().splitlines():
        try:
            events.append(RegistryEvent.model_validate_json(line))
        except ValidationError:
            continue  # torn by a crash, or of a later version
    return events


def _record(file: Path, log: IO[bytes], event: RegistryEvent) -> None:
    """Writes history, then file; when the file cannot be written, the history is as before."""
    text = set_text(_read(file), (ROLES, event.role, NAME), event.model_name, file)
    size = log.seek(0, os.SEEK_END)
    torn = size > 0 and _last_byte(log) != b"\n"
    try:
        with disk_errors(history_file(file)):
            line = b"\n" * torn + event.model_dump_json().encode() + b"\n"
            if log.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(log.fileno())
        mode = file.stat().st_mode & 0o7777 if file.exists() else None
        with atomic_write(file, binary=True) as target:
            target.write(text.encode())
        if mode is not None:
            file.chmod(mode)
    except BaseException:
        os.truncate(history_file(file), size)
        raise


def _last_byte(log: IO[bytes]) -> bytes:
    log.seek(-1, os.SEEK_END)
    return log.read(1)
