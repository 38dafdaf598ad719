"""The serving program, started and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest

KEY = "FTF_SERVE_API_KEY"


class Server:
    """A running program and its one line."""

    def __init__(self, process: subprocess.Popen[str], said: dict[str, Any]) -> None:
        self.process = process
        self.said = said

    @property
    def address(self) -> str:
        """Where it listens."""
        return str(self.said["address"])


@contextmanager
def start(
    request: dict[str, Any], *, api_key: str | None = None, stderr: IO[str] | None = None
) -> Iterator[Server]:
    """The program with a request; it is ended in the end."""
    environment = {name: value for name, value in os.environ.items() if name != KEY}
    environment |= {"FTF_THREADS": "1", "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "finetuneflow.deploy.serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment | ({KEY: api_key} if api_key else {}),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({"port": 0, "name": "mine"} | request) + "\n")
        process.stdin.flush()
        yield Server(process, json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="session")
def start_server() -> Any:
    """`start`, for tests that need a server of their own."""
    return start
