"""Processes told apart from later ones with the same number, and ended with all their children."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from finetuneflow.schemas.base import Schema

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")
LINUX = sys.platform == "linux"


class ProcessIdentity(Schema):
    """A process for good: a number alone is reused."""

    pid: int
    started: str
    """When it began, in the system's own words; with the boot id on Linux."""
    host: str


def identify(pid: int) -> ProcessIdentity:
    """The identity of a living process. Raises ProcessLookupError when there is none."""
    started = _started(pid)
    if started is None:
        raise ProcessLookupError(pid)
    return ProcessIdentity(pid=pid, started=started, host=platform.node())


def is_alive(process: ProcessIdentity) -> bool:
    """True while that very process runs on this host; a zombie does not."""
    return process.host == platform.node() and _started(process.pid) == process.started


def _started(pid: int) -> str | None:
    if LINUX:
        # Clock ticks since boot: unlike psutil's create_time, it stays when the clock is set.
        try:
            stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else f"{_boot()}/{fields[19]}"
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def adopt_orphans() -> None:
    """Makes this process the parent of its descendants' orphans (Linux): none escapes a cancel."""
    if LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> Callable[[], None] | None:
    """What a child calls before it becomes its program, so that it does not outlive this process (Linux)."""
    if not LINUX:
        return None
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def call() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return call


def end_descendants(*, grace_seconds: float, keep_trying_seconds: float = 10.0) -> None:
    """Ends all descendants of this process: asked (SIGTERM), then after a grace period made to (SIGKILL)."""
    _end(lambda: psutil.Process().children(recursive=True), grace_seconds, keep_trying_seconds)


def end_session(leader: ProcessIdentity, *, keep_trying_seconds: float = 5.0) -> None:
    """Kills what is left of the session that `leader` opened, on this host and since this boot."""
    now = _started(leader.pid)
    if leader.host != platform.node() or (now is not None and now != leader.started):
        return  # another machine, or the number went to a stranger: then nothing of the session is left
    if LINUX and leader.started.partition("/")[0] != _boot():
        return
    _end(lambda: _members(leader.pid), 0.0, keep_trying_seconds)


def _members(session: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                members.append(process)
        except OSError:
            continue
    return members


def _end(
    find: Callable[[], Iterable[psutil.Process]], grace_seconds: float, keep_trying_seconds: float
) -> None:
    begun = time.monotonic()
    asked: set[psutil.Process] = set()
    while time.monotonic() - begun < grace_seconds + keep_trying_seconds:
        reap()
        left = [process for process in find() if _runs(process)]
        if not left:
            return
        force = time.monotonic() - begun >= grace_seconds
        for process in left:
            if force or process not in asked:
                asked.add(process)
                _signal(process, signal.SIGKILL if force else signal.SIGTERM)
        time.sleep(0.02)


def reap(keep: int | None = None) -> None:
    """Buries dead children that were adopted; `keep` is left to the one who waits for it."""
    for child in psutil.Process().children():
        if child.pid != keep and not _runs(child):
            try:
                os.waitpid(child.pid, os.WNOHANG)
            except OSError:
                continue


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return
