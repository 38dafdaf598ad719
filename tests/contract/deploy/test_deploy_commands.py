"""`finetuneflow deploy`: from a finished run to a model on a server that keeps Ollama's contract.

Training and export are stand-ins.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.artifacts import Workspace
from finetuneflow.cli import deploy
from finetuneflow.errors import NotFoundError
from finetuneflow.jobs.local import LocalExecutor
from finetuneflow.schemas.example import Example, Message
from finetuneflow.schemas.export import ExportKind
from finetuneflow.schemas.recipe import Recipe
from finetuneflow.schemas.run import Run
from finetuneflow.services import datasets, deployments, exports, jobs, runs, serving
from finetuneflow.services.context import Context
from finetuneflow.settings import load_settings
from finetuneflow.store.database import open_store

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WORKER = (sys.executable, str(Path(__file__).with_name("stand_in_stages.py")))
SYSTEM = "Tu réponds en bref."


@pytest.fixture
def context(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """The workspace of the test, its jobs run by the stand-ins; the commands use it too."""
    workspace.mkdir()
    settings = load_settings()
    store = open_store(settings.database_url)
    context = Context(
        settings, Workspace(settings.home), store, LocalExecutor(worker=WORKER, grace_seconds=0.5)
    )

    @contextmanager
    def using() -> Iterator[Context]:
        yield context

    monkeypatch.setattr(deploy, "using_context", using)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    yield context
    store.close()


def train(context: Context, folder: Path, *, system: str | None = SYSTEM, **recipe: Any) -> Run:
    """A finished run on examples that all have that system prompt."""
    head = [Message(role="system", content=system)] if system else []
    turns = (
        (Message(role="user", content=f"Question {n} ?"), Message(role="assistant", content="Oui."))
        for n in range(60)
    )
    data = folder / "données.jsonl"
    datasets.write(data, [Example(messages=[*head, *pair]) for pair in turns])
    values: dict[str, Any] = {"base_model": "embedded:tiny", "dataset": str(data), "max_seq_length": 512}
    run = runs.start(context, Recipe.model_validate(values | recipe), name="Essai n° 1")
    jobs.wait(context, run.id, poll_seconds=0.02)
    return runs.get_run(context, run.id)


@pytest.fixture
def run(context: Context, tmp_path: Path, ollama: Any, reply: Any) -> Run:
    ollama.answer = lambda question: reply("Oui.")
    return train(context, tmp_path, output_model_name="qwen3-sfd-analyzer-v2")


def test_the_documented_command(cli: Any, ollama: Any, run: Run, tmp_path: Path) -> None:
    modelfile = tmp_path / "Modelfile.applications"
    said = cli(
        *("deploy", "ollama", run.id, "--name", "applications-ia", "--url", ollama.url),
        *("--system", "Tu es un assistant expert.\nFROM ./model.gguf\nTu réponds de manière précise."),
        *("--parameter", "temperature=0.7", "--parameter", "top_p=0.9", "--modelfile", modelfile),
    )
    assert said.code == 0, said.err
    model = ollama.models["applications-ia:latest"]
    assert model["system"] == "Tu es un assistant expert.\nFROM ./model.gguf\nTu réponds de manière précise."
    assert model["parameters"] == {"repeat_penalty": 1, "num_ctx": 4096, "temperature": 0.7, "top_p": 0.9}
    assert model["license"] == "Licence of the base\n"
    assert "20 of 20 answers the same" in said.out
    assert "applications-ia (new)" in said.out
    assert "Next: ollama run applications-ia" in said.err
    assert "not what the model was trained with: its examples had another one" in said.err
    lines = modelfile.read_text(encoding="utf-8").splitlines()
    named = Path(lines[0].removeprefix("FROM "))
    assert named.is_absolute()
    assert named.read_bytes().startswith(b"GGUF")
    assert not named.is_symlink()
    assert "FROM ./model.gguf" in lines[1:], "a prompt is nobody's to change"
    assert {"PARAMETER temperature 0.7", "PARAMETER top_p 0.9", "PARAMETER num_ctx 4096"} <= set(lines)


def test_without_options_recipe_and_training_decide(cli: Any, ollama: Any, run: Run) -> None:
    said = cli("deploy", "ollama", run.id, "--url", ollama.url, "--json")
    assert said.code == 0, said.err
    made = said.json()
    assert (made["name"], made["passed"], made["answers_equal"]) == ("qwen3-sfd-analyzer-v2", True, 20)
    assert made["deployment_id"].startswith("deploy-")
    assert (Path(made["folder"]) / "Modelfile").read_text(encoding="utf-8") == made["modelfile"]
    model = ollama.models["qwen3-sfd-analyzer-v2:latest"]
    assert (model["system"], model["parameters"]) == (SYSTEM, {"repeat_penalty": 1, "num_ctx": 4096})
    assert "Export export-" in said.err


def test_the_newest_checked_export_is_used_and_another_format_exported(
    context: Context, cli: Any, ollama: Any, run: Run
) -> None:
    address = ("--url", ollama.url, "--json")
    first = cli("deploy", "ollama", run.id, *address)
    second = cli("deploy", "ollama", run.id, "--name", "encore", *address)
    assert (first.code, second.code) == (0, 0), second.err
    assert len(exports.list_exports(context, run_id=run.id)) == 1
    assert second.json()["uploaded_bytes"] == 0
    third = cli("deploy", "ollama", run.id, "--name", "q8", "--quantization", "Q8_0", *address)
    assert third.code == 0, third.err
    assert len(exports.list_exports(context, run_id=run.id)) == 2
    assert third.json()["digest"] != second.json()["digest"]


def test_the_address_is_taken_from_the_environment(
    cli: Any, ollama: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url.removeprefix("http://"))
    assert cli("deploy", "ollama", run.id).code == 0
    assert len(ollama.models) == 1


REFUSED = [
    (("--name", "mon modèle"), "is no name for a model in Ollama"),
    (("--parameter", "temprature=0.7"), "did you mean `temperature`?"),
    (("--parameter", "temperature"), "is not NAME=VALUE"),
    (("--quantization", "q9"), "is no number format of GGUF"),
    (("--url", "http://models.example:11434"), "--allow-remote"),
    (("--url", "http://127.0.0.1:9"), "no Ollama server answers"),
    (("--adapter",), "0.34.1 refuses adapters"),
    (("--modelfile", "Modelfile", "--detach"), "leave one of them out"),
    (("--parameter", "typical_p=0.5"), "0.34.1 refuses `typical_p`"),
]


def test_what_cannot_work_is_said_before_anything_is_exported(
    context: Context, cli: Any, ollama: Any, run: Run
) -> None:
    for options, said in REFUSED:
        answered = cli("deploy", "ollama", run.id, "--url", ollama.url, *options)
        assert answered.code in (1, 2), options
        assert said in answered.err
        assert "Traceback" not in answered.err
    ollama.version = "0.33.0"
    assert "--base-gguf FILE" in cli("deploy", "ollama", run.id, "--url", ollama.url, "--adapter").err
    assert [job.kind for job in jobs.list_jobs(context)] == ["train"]
    assert ollama.paths("POST") == []


def test_a_model_that_answers_otherwise_fails_the_deployment(
    cli: Any, ollama: Any, reply: Any, run: Run
) -> None:
    ollama.answer = lambda question: reply("Non.")
    said = cli("deploy", "ollama", run.id, "--url", ollama.url)
    assert said.code == 1
    assert "0 of 20 answers are the same" in said.err
    assert "prompt 1 (Question 0 ?), from character 1 on" in said.err
    assert ollama.models == {}
    (listed,) = cli("deploy", "list", "--json").json()["deployments"]
    assert (listed["job"]["status"], listed["result"]) == ("failed", None)


def test_deployments_are_listed(cli: Any, ollama: Any, run: Run) -> None:
    assert "No deployment yet" in cli("deploy", "list").err
    assert cli("deploy", "list", "--json").json() == {"deployments": []}
    assert cli("deploy", "ollama", run.id, "--url", ollama.url).code == 0
    table = cli("deploy", "list").out
    assert "qwen3-sfd-analyzer-v2" in table
    assert "20 of 20" in table
    (listed,) = cli("deploy", "list", "--json").json()["deployments"]
    assert (listed["name"], listed["url"]) == ("qwen3-sfd-analyzer-v2", ollama.url)
    assert listed["result"]["passed"]
    assert listed["job"]["kind"] == "deploy"


def test_a_template_of_ones_own_is_sent(cli: Any, ollama: Any, run: Run, tmp_path: Path) -> None:
    template = tmp_path / "template.txt"
    template.write_text("{{ .System }} « {{ .Prompt }} »", encoding="utf-8")
    said = cli("deploy", "ollama", run.id, "--url", ollama.url, "--template", template)
    assert said.code == 0, said.err
    (model,) = ollama.models.values()
    assert model["template"] == "{{ .System }} « {{ .Prompt }} »"
    template.write_bytes(b"\xff")
    assert "not a text in UTF-8" in cli("deploy", "ollama", run.id, "--template", template).err


def test_serve_prints_the_address_alone_and_passes_everything_on(
    context: Context, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def serve(_: object, reference: str, *, on_ready: Any, **options: Any) -> int:
        asked.update(options, reference=reference)
        on_ready("http://127.0.0.1:8080")
        return 130

    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.setenv("FTF_SERVE_API_KEY", "s3cret")
    said = cli("deploy", "serve", "run-1", "--port", 0, "--engine", "transformers")
    assert (said.code, said.out) == (130, "http://127.0.0.1:8080\n")
    assert asked == {
        "reference": "run-1",
        "host": "127.0.0.1",
        "port": 0,
        "api_key": "s3cret",
        "engine": "transformers",
    }
    assert cli("deploy", "serve", "run-1", "--json").json() == {"address": "http://127.0.0.1:8080"}
    assert "s3cret" not in cli("deploy", "serve", "--help").out


def test_a_detached_deployment_prints_its_id_alone(context: Context, cli: Any, ollama: Any, run: Run) -> None:
    said = cli("deploy", "ollama", run.id, "--url", ollama.url, "--detach")
    assert said.code == 0, said.err
    assert jobs.wait(context, said.out.strip()).status == "success"


def test_an_exported_file_is_served_only_as_it_was_checked(context: Context, run: Run) -> None:
    config = exports.default_config(context, run.id).model_copy(update={"kinds": ["gguf"]})
    export = jobs.wait(context, exports.start(context, run.id, config=config).id)
    gguf = exports.result(context, export.id).gguf
    assert gguf is not None
    for reference in (run.id, export.id):
        assert serving.find_model(context, reference).sha256 == gguf.sha256
    path = Path(export.folder) / gguf.path
    assert serving.find_model(context, str(path)).sha256 is None


def test_an_exported_adapter_whose_files_are_gone_is_passed_over(
    context: Context, ollama: Any, run: Run, tmp_path: Path
) -> None:
    ollama.version = "0.33.0"
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")
    config = exports.default_config(context, run.id)
    kinds: list[list[ExportKind]] = [["gguf", "gguf-adapter"], ["gguf-adapter"], ["gguf-adapter"]]
    made = [
        jobs.wait(
            context,
            exports.start(context, run.id, config=config.model_copy(update={"kinds": asked})).id,
            poll_seconds=0.02,
        )
        for asked in kinds
    ]
    (Path(made[1].folder) / "adapter.gguf").unlink()
    shutil.rmtree(made[2].folder)
    options: dict[str, Any] = {"url": ollama.url, "use_adapter": True, "base_gguf": base}
    job = deployments.deploy_ollama(context, run.id, **options)
    assert jobs.wait(context, job.id, poll_seconds=0.02).status == "success"
    (model,) = ollama.models.values()
    assert list(model["adapters"]) == ["adapter.gguf"]
    (Path(made[0].folder) / "adapter.gguf").unlink()
    with pytest.raises(NotFoundError, match="no adapter"):
        deployments.deploy_ollama(context, run.id, **options)


def test_a_cancelled_deployment_leaves_nothing_on_a_busy_server(
    context: Context, cli: Any, ollama: Any, reply: Any, run: Run
) -> None:
    assert cli("deploy", "ollama", run.id, "--url", ollama.url, "--name", "before").code == 0
    busy, over = threading.Event(), threading.Event()

    def answer(_: object) -> Any:
        busy.set()
        over.wait(60)
        return reply("Oui.")

    ollama.answer = answer
    job = deployments.deploy_ollama(context, run.id, url=ollama.url)
    try:
        assert busy.wait(30)
        assert len(ollama.models) == 2
        jobs.cancel(context, job.id)
        assert jobs.wait(context, job.id, poll_seconds=0.02).status == "cancelled"
        assert list(ollama.models) == ["before:latest"]
    finally:
        over.set()


def test_system_prompts_that_differ_give_none_and_an_empty_one_is_none(
    context: Context, tmp_path: Path, run: Run
) -> None:
    assert deployments.ollama_config(context, run.id).system == SYSTEM
    assert deployments.ollama_config(context, run.id, system="").system is None
    (tmp_path / "without").mkdir()
    other = train(context, tmp_path / "without", system=None)
    config = deployments.ollama_config(context, other.id)
    assert (config.system, config.name) == (None, "essai-n-1")
    version = Path(datasets.get_dataset(context, run.dataset_id).path) / "train.jsonl"
    version.chmod(0o644)
    lines = version.read_text(encoding="utf-8").splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]), ensure_ascii=False).replace(SYSTEM, "Autrement.")
    version.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert datasets.system_prompt(context, run.dataset_id) is None


def test_answers_are_no_longer_than_those_of_the_export(context: Context, ollama: Any, run: Run) -> None:
    config = exports.default_config(context, run.id).model_copy(
        update={"kinds": ["gguf"], "max_new_tokens": 7}
    )
    jobs.wait(context, exports.start(context, run.id, config=config).id)
    jobs.wait(context, deployments.deploy_ollama(context, run.id, url=ollama.url).id)
    assert ollama.bodies("/api/chat")[0]["options"]["num_predict"] == 7
