"""Serving: the model of a run, an export or a GGUF file behind HTTP, until somebody ends it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from finetuneflow.deploy.serve_request import (
    API_KEY_VARIABLE,
    Ready,
    ServeRequest,
    check_exposure,
)
from finetuneflow.errors import DependencyError, FineTuneFlowError, ModelError, NotFoundError, UsageError
from finetuneflow.jobs.processes import end_with_parent
from finetuneflow.schemas.export import GgufResult
from finetuneflow.schemas.run import Run, TrainResult
from finetuneflow.services import exports, jobs, runs
from finetuneflow.services.context import Context

MODULE = "finetuneflow.deploy.serve"
EngineChoice = Literal["auto", "llama.cpp", "transformers"]
NEEDED = {
    "uvicorn": ("serve", "to serve a model"),
    "starlette": ("serve", "to serve a model"),
}
NEEDED_BY = {
    "llama.cpp": {"xllamacpp": ("export", "to serve a GGUF model")},
    "transformers": {"torch": ("train", "to load a model")},
}
END_SECONDS = 10.0
"""What the server is given to end by itself: three seconds for answers under way, the rest to spare."""
PATIENT_THREADS = "10000"
"""`GOMP_SPINCOUNT`: threads that wait for work let others compute."""


def serve(
    context: Context,
    reference: str,
    *,
    on_ready: Callable[[str], None],
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    engine: EngineChoice = "auto",
) -> int:
    """Serves a model until SIGINT or SIGTERM; gives the exit code.

    Args:
        context: Where runs and exports are.
        reference: Id of a run or of an export, or the path of a `.gguf` file.
        on_ready: Called with the address once requests are answered.
        host: Address to listen on; one that other machines reach needs a key.
        port: 0 takes any that is free.
        api_key: What clients must send, or `@file` with it; None: the environment's `FTF_SERVE_API_KEY`.
        engine: auto: llama.cpp where there is a GGUF whose check passed, else transformers.

    Raises:
        NotFoundError, UsageError: no such model, an engine that cannot serve it, a port in use, no key.
        DependencyError, ModelError: a package is missing, the model cannot be loaded or the server died.
    """
    api_key = read_api_key(api_key or os.environ.get(API_KEY_VARIABLE))
    check_exposure(host, api_key)
    request = find_model(context, reference, engine=engine).model_copy(update={"host": host, "port": port})
    _check_packages(request)
    with _stopping_on_sigterm(), tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = _start(api_key, log)
        try:
            on_ready(_ready(process, request, log).address)
            code = process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(process)
        raise ModelError(f"the server ended by itself (code {code}): {_last_words(log)}", "start it again")


def read_api_key(given: str | None) -> str | None:
    """The key itself: what was given, or what stands in the file of `@file`, which nobody else may read.

    Raises NotFoundError, UsageError.
    """
    if not given or not given.startswith("@"):
        return given or None
    path = Path(given[1:]).expanduser()
    try:
        mode, key = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"the API key cannot be read from `{path}`"
        raise NotFoundError(message, "give `@` and a text file") from error
    if mode & 0o077:
        raise UsageError(f"others may read the API key in `{path}`", f"chmod 600 {path}")
    if not key:
        raise UsageError(f"`{path}` is empty: there is no API key in it", "write a long secret into it")
    return key


def find_model(context: Context, reference: str, *, engine: EngineChoice = "auto") -> ServeRequest:
    """What to serve for a reference. Raises NotFoundError, UsageError."""
    if reference.endswith(".gguf"):
        path = Path(reference).expanduser().resolve()
        if not path.is_file():
            raise NotFoundError(f"there is no file `{reference}`", "give a GGUF file, or the id of a run")
        if engine == "transformers":
            raise UsageError("transformers does not serve GGUF files here", "use the engine `llama.cpp`")
        return ServeRequest(engine="llama.cpp", name=path.stem, gguf=str(path))
    if reference.startswith("export-"):
        return _of_export(context, reference, engine)
    run, trained = runs.finished(context, reference)
    if engine != "transformers" and run.recipe.task == "causal_lm":
        found = exports.latest_gguf(context, reference)
        if found is not None:
            return _of_gguf(run, found[1], found[2])
    if engine == "llama.cpp":
        if run.recipe.task != "causal_lm":
            raise UsageError(
                f"run {run.id} is a classifier: llama.cpp does not serve it", "leave `--engine` out"
            )
        raise UsageError(
            f"run {run.id} has no GGUF whose check passed",
            f"make one: `finetuneflow export {run.id} --to gguf`, or use the engine `transformers`",
        )
    return _of_weights(run, trained)


def _of_export(context: Context, export_id: str, engine: EngineChoice) -> ServeRequest:
    result = exports.result(context, export_id)
    run, trained = runs.finished(context, result.run_id)
    folder = Path(jobs.get_job(context, export_id).folder)
    if result.gguf is not None and engine != "transformers":
        if not result.gguf.parity.passed:
            raise UsageError(f"the GGUF of {export_id} failed its check", "export the run again")
        return _of_gguf(run, result.gguf, folder / result.gguf.path)
    if engine == "llama.cpp":
        raise UsageError(
            f"{export_id} has no GGUF file", f"make one: `finetuneflow export {run.id} --to gguf`"
        )
    request = _of_weights(run, trained)
    if result.merged is not None:
        return request.model_copy(update={"model": str(folder / result.merged), "adapter": None})
    return request


def _of_gguf(run: Run, gguf: GgufResult, path: Path) -> ServeRequest:
    return ServeRequest(engine="llama.cpp", name=_name(run), gguf=str(path), sha256=gguf.sha256)


def _of_weights(run: Run, trained: TrainResult) -> ServeRequest:
    folder = Path(run.folder)
    return ServeRequest(
        engine="transformers",
        task=run.recipe.task,
        name=_name(run),
        base_model=run.recipe.base_model,
        model=str(folder / trained.model) if trained.model else None,
        adapter=str(folder / trained.adapter) if trained.adapter else None,
        labels=trained.labels,
        precision=trained.precision,
    )


def _name(run: Run) -> str:
    return run.recipe.output_model_name or run.name


def _check_packages(request: ServeRequest) -> None:
    for package, (extra, reason) in (NEEDED | NEEDED_BY[request.engine]).items():
        if importlib.util.find_spec(package) is None:
            raise DependencyError(package, extra, reason)


def _start(api_key: str | None, log: IO[str]) -> subprocess.Popen[str]:
    environment = {"GOMP_SPINCOUNT": PATIENT_THREADS, **os.environ}
    environment.pop(API_KEY_VARIABLE, None)
    if api_key:
        environment[API_KEY_VARIABLE] = api_key
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        encoding="utf-8",
        env=environment,
        # A session of its own: Ctrl-C reaches this process, which ends the server in order.
        start_new_session=True,
        preexec_fn=end_with_parent(),
    )


def _ready(process: subprocess.Popen[str], request: ServeRequest, log: IO[str]) -> Ready:
    if process.stdin is None or process.stdout is None:
        raise ModelError("the server has no pipes")
    try:
        process.stdin.write(request.model_dump_json() + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it ended at once; its last words say why
    line = process.stdout.readline()
    if not line:
        raise ModelError(f"the server did not start: {_last_words(log)}", "see `finetuneflow doctor`")
    said = json.loads(line)
    if "error" not in said:
        return Ready.model_validate(said)
    error = said["error"]
    kind = UsageError if process.wait() == UsageError.exit_code else FineTuneFlowError
    raise kind(error["message"], error["hint"], code=error["code"])


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _last_words(log: IO[str]) -> str:
    log.seek(0)
    return (log.read().strip().splitlines() or ["it said nothing"])[-1]


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """SIGTERM is taken like Ctrl-C, so that the server is ended in order."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are another thread's business
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
