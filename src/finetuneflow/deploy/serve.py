"""A model behind HTTP: `python -m finetuneflow.deploy.serve`.

One line of JSON on stdin, a `ServeRequest`; the API key, if any, in the environment as `FTF_SERVE_API_KEY`.
One line of JSON on stdout: `{"address", "runtime"}` once it listens, or `{"error"}`. It ends with SIGTERM,
SIGINT, or when its stdin is closed.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, NoReturn

import uvicorn
from starlette.applications import Starlette

from finetuneflow.deploy.guard import Guard
from finetuneflow.deploy.serve_request import API_KEY_VARIABLE, Ready, ServeRequest, check_exposure
from finetuneflow.errors import FineTuneFlowError, UsageError

APPS = {
    "llama.cpp": "finetuneflow.deploy.gguf_server:open_app",
    "causal_lm": "finetuneflow.deploy.chat_server:open_app",
    "sequence_classification": "finetuneflow.deploy.classifier_server:open_app",
}
"""By name, so that a GGUF is served without torch; each gives a context of application and runtime."""
GRACE_SECONDS = 3
"""What answers under way are given when the server is asked to end."""
MOST_LOGGED = 100
"""Messages kept of a server: whoever sends nonsense must not fill the disk."""
IDLE_SECONDS = 75
"""How long a connection may stay open between two requests."""


def serve(request: ServeRequest, api_key: str | None, announce: Callable[[Ready], None]) -> None:
    """Serves until SIGTERM or SIGINT; `announce` is called once requests are answered.

    Raises:
        UsageError: the address cannot be used, or may not without a key.
        DependencyError, NotFoundError, ModelError: the model cannot be loaded.
    """
    check_exposure(request.host, api_key)
    key = request.engine if request.engine == "llama.cpp" else request.task
    # Before the model is loaded: a port in use is told at once.
    with _bind(request.host, request.port) as listener:
        module, _, function = APPS[key].partition(":")
        open_app: Callable[[ServeRequest], AbstractContextManager[tuple[Starlette, str]]]
        open_app = getattr(import_module(module), function)
        with open_app(request) as (app, runtime):
            host = f"[{request.host}]" if ":" in request.host else request.host
            ready = Ready(address=f"http://{host}:{listener.getsockname()[1]}", runtime=runtime)
            config = uvicorn.Config(
                Guard(app, host=request.host, api_key=api_key),
                http="h11",
                ws="none",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
            try:
                _Server(config, lambda: announce(ready)).run([listener])
            except OSError as error:
                raise _unusable(request.host, request.port, error) from error


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        if self.started:
            self._announce()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # A connection of the last server that is still closing must not hold the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise _unusable(host, port, error) from error
    return listener


def _unusable(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {port} of {host} is in use",
            "choose another one; 0 takes any that is free",
            code="port_in_use",
        )
    return UsageError(
        f"the server cannot listen on port {port} of `{host}`: {error.strerror}",
        "use an address of this machine, such as 127.0.0.1, and a port from 1024",
    )


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)


def _end_with_stdin() -> None:
    # Not through sys.stdin: a thread that waits in it with its lock held spoils the end of the process.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Serves as stdin says; gives the exit code."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    handler, count = logging.StreamHandler(), itertools.count()
    handler.addFilter(lambda _: next(count) < MOST_LOGGED)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    # Libraries may print: what they say goes to stderr, the pipe is for our one line.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(line: dict[str, Any]) -> None:
        pipe.write(json.dumps(line) + "\n")
        pipe.flush()

    try:
        request = ServeRequest.model_validate_json(sys.stdin.readline())
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        api_key = os.environ.get(API_KEY_VARIABLE) or None
        serve(request, api_key, lambda ready: tell(ready.model_dump()))
    except FineTuneFlowError as error:
        tell({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # all is closed; taking torch apart would be seconds of nothing
