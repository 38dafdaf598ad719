"""A deployment whose server really runs the uploaded file: llama.cpp answers behind `/api/chat`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from finetuneflow.artifacts import JobFolder
from finetuneflow.deploy.ollama import run
from finetuneflow.errors import ParityError
from finetuneflow.export.gguf.file import WrittenGguf, write_gguf
from finetuneflow.export.parity.check import check_parity
from finetuneflow.modeling.locate import embedded_folder
from finetuneflow.schemas.deployment import OllamaConfig, OllamaDeployment, OllamaInputs
from finetuneflow.schemas.example import Example, Message
from finetuneflow.schemas.export import ExportConfig

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BASE = "embedded:tiny"
QUESTIONS = (
    "À quoi sert Atlas ?",
    "What is the status of Boréal?",
    "Où trouver l'Écho ?",
    "Qui gère Delta ?",
)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WrittenGguf]:
    """The embedded model as a checked GGUF file."""
    folder = tmp_path_factory.mktemp("export")
    path = folder / "model.gguf"
    written = write_gguf(path, embedded_folder(BASE), quantization="f16", name="tiny")
    examples = [
        Example(messages=[Message(role="user", content=text), Message(role="assistant", content="Non.")])
        for text in QUESTIONS
    ]
    config = ExportConfig(kinds=["gguf"], parity_prompts=20, parity_answers=4, max_new_tokens=24)
    checked = check_parity(path, reference=BASE, adapter=None, config=config, examples=examples)
    assert checked.passed, checked.failures
    (folder / "parity.json").write_text(checked.model_dump_json(), encoding="utf-8")
    return path, written


@contextmanager
def runner(blob: Path) -> Iterator[httpx.Client]:
    """llama.cpp on an uploaded file, as Ollama starts it."""
    command = [sys.executable, "-m", "finetuneflow.modeling.llama_cpp_server", "--host", "127.0.0.1"]
    environment = {name: value for name, value in os.environ.items() if name != "FTF_SERVE_API_KEY"}
    process = subprocess.Popen(
        [*command, "--model", str(blob), "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["address"]
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def answers(ollama: Any, reply: Any) -> Iterator[None]:
    """Lets the server answer with the file that it was sent, under the options that hold there."""
    running: dict[Path, Any] = {}

    def answer(question: Any) -> Any:
        if question.blob not in running:
            opened = runner(question.blob)
            running[question.blob] = (opened, opened.__enter__())
        body = {
            "messages": question.messages,
            "max_tokens": question.options["num_predict"],
            **{key: question.options[key] for key in ("temperature", "seed", "repeat_penalty")},
        }
        choice = running[question.blob][1].post("/v1/chat/completions", json=body).json()["choices"][0]
        return reply(choice["message"]["content"] or "", choice["finish_reason"] == "length")

    ollama.answer = answer
    yield
    for opened, _ in running.values():
        opened.__exit__(None, None, None)


def deploy(ollama: Any, export: tuple[Path, WrittenGguf], folder: Path, **config: Any) -> OllamaDeployment:
    path, written = export
    folder.mkdir(exist_ok=True)
    return run(
        OllamaConfig.model_validate({"name": "tiny", "url": ollama.url, "max_new_tokens": 24} | config),
        OllamaInputs(
            run_id="run-1",
            export_id="export-1",
            gguf=str(path),
            sha256=written.sha256,
            parity=str(path.with_name("parity.json")),
        ),
        JobFolder(folder),
    )


@pytest.mark.usefixtures("answers")
def test_the_uploaded_file_answers_like_the_trained_model(
    ollama: Any, export: tuple[Path, WrittenGguf], tmp_path: Path
) -> None:
    ollama.version = "0.33.0"
    done = deploy(ollama, export, tmp_path / "deploy-1", system="Parle comme un pirate.")
    assert (done.passed, done.prompts) == (True, 20)
    assert done.answers_equal >= 19, done.first_difference
    assert done.uploaded_bytes == export[1].size_bytes


@pytest.mark.usefixtures("answers")
def test_a_template_that_training_never_saw_is_found_out(
    ollama: Any, export: tuple[Path, WrittenGguf], tmp_path: Path
) -> None:
    asked = ollama.answer

    def with_template(question: Any) -> Any:
        # What a wrong template does to the prompt.
        last = question.messages[-1]
        turns = [*question.messages[:-1], {"role": "user", "content": f"### Instruction: {last['content']}"}]
        return asked(question._replace(messages=turns) if "template" in question.model else question)

    ollama.answer = with_template
    with pytest.raises(ParityError, match="answers are the same"):
        deploy(ollama, export, tmp_path / "deploy-2", template="### Instruction: {{ .Prompt }}")
    assert ollama.models == {}
