"""A checked GGUF file registered in Ollama, and asked again there before it takes its name.

The model is first created under a name of its own and asked the prompts of the parity check. Only when it
answers like the trained model is the wanted name created, from the same files; so a bad model never replaces
a good one, and a name always stands for something that was checked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetuneflow.artifacts import GGUF_ADAPTER, GGUF_MODEL, MODELFILE, JobFolder, sha256_file, write_text
from finetuneflow.errors import InputError, JobCancelled, NotFoundError, ParityError, UsageError
from finetuneflow.providers.modelfile import (
    Modelfile,
    check_name,
    check_parameters,
    create_body,
    full_name,
    losses,
    name_from,
    render,
)
from finetuneflow.providers.ollama import BLOCK_BYTES, ChatAnswer, OllamaClient
from finetuneflow.providers.ollama_server import (
    OllamaError,
    check_place,
    check_version,
    server_url,
    warnings_of,
)
from finetuneflow.schemas.deployment import OllamaConfig, OllamaDeployment, OllamaInputs
from finetuneflow.schemas.event import LogEvent, ProgressEvent
from finetuneflow.schemas.export import ParityPrompt, ParityResult

CHECK_NAME = "finetuneflow-check"
ALLOWED_SHARE = 0.9
"""Of the answers that llama.cpp gave alike in the export's own check, so many must come alike from Ollama:
another build of llama.cpp, or a GPU, may decide a tie otherwise."""
ENOUGH_ALIKE = 5
"""So many of the answers asked again must have been alike in the export's own check, or they show nothing."""
NEARLY_ALL = 0.8
"""Of the trained model's answer, that an answer cut at the same number of tokens must reach."""
DELETE_SECONDS = 30.0
LAST_SECONDS = 1.0
"""To remove the check's model when the process is ended: it is killed two seconds after it was asked."""
SHOWN_CHARACTERS = 160
MEGABYTE = 1_000_000
BLOCKS_BETWEEN_EVENTS = 16


def run(config: OllamaConfig, inputs: OllamaInputs, job: JobFolder) -> OllamaDeployment:
    """Uploads what the server does not have, creates the model, asks it, and gives it its name.

    Raises:
        UsageError: a name, a parameter or a server that cannot be used, or too coarse a file.
        NotFoundError: the exported files are gone.
        OllamaError: the server cannot be reached, refuses or fails; the wanted name is as it was.
        ParityError: Ollama does not answer like the trained model; the wanted name is as it was.
        JobCancelled: the job was asked to stop.
    """
    started = time.monotonic()
    url = server_url(config.url)
    check_place(url, allow_remote=config.allow_remote)
    check_name(config.name)
    parameters = check_parameters(config.parameters)
    parity = _read_parity(Path(inputs.parity))
    asked = _asked(parity, config)
    model, files = _model(config, inputs, parameters)
    with OllamaClient(url) as client:
        version = client.version()
        check_version(version, adapters=config.use_adapter, parameters=parameters)
        warnings = warnings_of(version, url, template=config.template) + _unwritable(model)
        for warning in warnings:
            job.emit(LogEvent(level="warning", message=warning))
        job.emit(LogEvent(message=f"Ollama {version} at {url}"))
        uploaded = sum(_upload(client, path, digest, job) for path, digest in files.values())
        digests = {name: digest for name, (_, digest) in files.items()}
        replaced = full_name(config.name).lower() in (name.lower() for name in client.names())
        with _checked_model(client, model, digests, job) as name:
            found = _ask(client, name, asked, config, parameters, job)
            _require(found, parity, config)
            client.create(create_body(model, config.name, digests))
        client.show(config.name)
    job.emit(LogEvent(message=f"`{config.name}` {'replaced' if replaced else 'created'}"))
    text = render(model)
    _write_modelfile(job.path, text, files)
    return OllamaDeployment(
        name=config.name,
        url=url,
        server_version=version,
        digest=digests[model.gguf],
        created=not replaced,
        uploaded_bytes=uploaded,
        prompts=len(found),
        answers_equal=sum(difference is None for difference in found),
        passed=True,
        first_difference=_first(found),
        warnings=warnings,
        modelfile=text,
        seconds=time.monotonic() - started,
    )


def _read_parity(path: Path) -> ParityResult:
    if not path.is_file():
        raise NotFoundError(f"`{path}` is gone: there is nothing to check the model against", "export again")
    try:
        parity = ParityResult.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError("this is no result of a parity check", "export again", path=path) from error
    if not parity.passed:
        raise ParityError(
            f"the export did not pass its own check: {parity.first_difference}", "export again, as f16"
        )
    return parity


def _asked(parity: ParityResult, config: OllamaConfig) -> list[ParityPrompt]:
    """The prompts to ask again. Raises UsageError when their answers would show nothing."""
    asked = [example for example in parity.examples if example.continuation_equal is not None]
    asked = asked[: config.prompts]
    if not asked:
        raise UsageError("the export's check kept no answers to compare with", "export again")
    alike = sum(bool(example.continuation_equal) for example in asked)
    if alike < min(ENOUGH_ALIKE, len(asked)):
        raise UsageError(
            f"this {parity.quantization} file is too coarse to be checked by whole answers: "
            f"in the export's own check {alike} of {len(asked)} were those of the trained model",
            "deploy a finer one: --quantization q8_0 or f16",
            code="too_coarse",
        )
    return asked


def _model(
    config: OllamaConfig, inputs: OllamaInputs, parameters: Mapping[str, Any]
) -> tuple[Modelfile, dict[str, tuple[Path, str]]]:
    """What Ollama is told, and the files it needs: name to path and `sha256:…`."""
    if config.use_adapter:
        if inputs.base_gguf is None or inputs.gguf_adapter is None:
            raise UsageError(
                "base and adapter cannot be sent apart: one of them is missing as a GGUF file",
                "deploy the merged model: leave out --adapter",
            )
        paths = {GGUF_MODEL: Path(inputs.base_gguf), GGUF_ADAPTER: Path(inputs.gguf_adapter)}
    else:
        paths = {GGUF_MODEL: Path(inputs.gguf)}
    for path in paths.values():
        if not path.is_file():
            raise NotFoundError(f"`{path}` is gone", "export again")
    files = {
        name: (path, f"sha256:{sha256_file(path) if config.use_adapter else inputs.sha256}")
        for name, path in paths.items()
    }
    model = Modelfile(
        gguf=GGUF_MODEL,
        adapter=GGUF_ADAPTER if config.use_adapter else None,
        system=config.system,
        template=config.template,
        parameters=parameters,
        license=inputs.license,
    )
    return model, files


def _unwritable(model: Modelfile) -> list[str]:
    """What the Modelfile in the job folder says otherwise than the request to the server."""
    texts = {"system prompt": model.system, "template": model.template}
    return [
        f"the server got the {name} exactly, the Modelfile cannot hold it: {loss}"
        for name, text in texts.items()
        for loss in losses(text or "")
    ]


def _upload(client: OllamaClient, path: Path, digest: str, job: JobFolder) -> int:
    """Bytes sent: none when the server has the file already."""
    if client.has_blob(digest):
        job.emit(LogEvent(message=f"the server has {path.name} already"))
        return 0

    def progress(done: int, total: int) -> None:
        _go_on(job)
        if done == total or done % (BLOCKS_BETWEEN_EVENTS * BLOCK_BYTES) == 0:
            _tell(job, "upload, MB", done // MEGABYTE, max(total // MEGABYTE, 1))

    return client.upload_blob(path, digest, on_progress=progress)


@contextmanager
def _checked_model(
    client: OllamaClient, model: Modelfile, digests: Mapping[str, str], job: JobFolder
) -> Iterator[str]:
    """A model under a name of its own, for the check; removed afterwards, whatever happens.

    It has no system prompt, for the prompts say their own, and no parameter that samples.
    """
    name = f"{CHECK_NAME}:{name_from(job.path.name)}"
    patience = DELETE_SECONDS
    window = {key: value for key, value in model.parameters.items() if key == "num_ctx"}
    asked = Modelfile(gguf=model.gguf, adapter=model.adapter, template=model.template, parameters=window)
    try:
        client.create(create_body(asked, name, digests))
        yield name
    except SystemExit:
        patience = LAST_SECONDS
        raise
    finally:
        # The failure that led here is the one to tell; at success the name matters little.
        with suppress(OllamaError), OllamaClient(client.url, answer_seconds=patience) as last:
            last.delete(name)


def _ask(
    client: OllamaClient,
    name: str,
    examples: Sequence[ParityPrompt],
    config: OllamaConfig,
    parameters: Mapping[str, Any],
    job: JobFolder,
) -> list[str | None]:
    """Asks the prompts of the export's check again; gives what differs for each, None where nothing does."""
    longest = max(len(example.ids) for example in examples) + config.max_new_tokens
    options = {
        "temperature": 0,
        "seed": 0,
        "num_predict": config.max_new_tokens,
        "num_ctx": max(longest, int(parameters.get("num_ctx", 0))),
    }
    found: list[str | None] = []
    for number, example in enumerate(examples, 1):
        _go_on(job)
        answer = client.chat(name, example.messages, options=options)
        found.append(_difference(number, example, answer))
        _tell(job, "check", number, len(examples))
    return found


def _difference(number: int, example: ParityPrompt, answer: ChatAnswer) -> str | None:
    """How an answer differs from the trained model's; None when it does not."""
    trained, served = example.trained_text.strip(), answer.text.strip()
    if answer.thinking or "<think>" in trained:
        trained, served = _words(trained), _words(f"{answer.thinking} {served}")
    # Both were cut at as many tokens, but not between the same characters.
    cut = answer.cut and trained.startswith(served) and len(served) >= NEARLY_ALL * len(trained)
    if served == trained or cut:
        return None
    place = next((i for i, pair in enumerate(zip(trained, served, strict=False)) if len(set(pair)) > 1), None)
    if place is None:
        place = min(len(trained), len(served))
    question = next((turn["content"] for turn in reversed(example.messages) if turn["role"] == "user"), "")
    return (
        f"prompt {number} ({_shown(question)}), from character {place + 1} on: "
        f"the trained model says `{_shown(trained[place:])}`, Ollama `{_shown(served[place:])}`"
    )


def _words(text: str) -> str:
    """The words of a reasoning model's answer: the server keeps its thoughts apart, without their marks."""
    return " ".join(re.sub(r"</?think>", " ", text).split())


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _first(found: Sequence[str | None]) -> str | None:
    return next((difference for difference in found if difference is not None), None)


def _require(found: Sequence[str | None], parity: ParityResult, config: OllamaConfig) -> None:
    """Raises ParityError unless nearly as many answers are alike as in the export's own check."""
    equal = sum(difference is None for difference in found)
    own = parity.continuations_equal / parity.continuations if parity.continuations else 1.0
    if equal >= ALLOWED_SHARE * own * len(found) - 1e-9:
        return
    raise ParityError(
        f"Ollama does not answer like the trained model: {equal} of {len(found)} answers are the same "
        f"({own:.0%} were in the export's own check); first: {_first(found)}. "
        f"The model was removed again, and `{config.name}` on the server is as it was",
        "a template of your own (--template) or an old server are the usual causes",
    )


def _write_modelfile(folder: Path, text: str, files: Mapping[str, tuple[Path, str]]) -> None:
    """The Modelfile, and beside it links to the files that it names: `ollama create NAME -f Modelfile`."""
    for name, (path, _) in files.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(path)
    write_text(folder / MODELFILE, text)


def _go_on(job: JobFolder) -> None:
    if job.cancelled():
        raise JobCancelled("the deployment was stopped", "start it again: what is uploaded stays uploaded")


def _tell(job: JobFolder, stage: str, done: int, total: int) -> None:
    job.emit(ProgressEvent(stage=stage, step=done, total_steps=total))
