"""Deploying to Ollama: the stage against a server of 0.33 and of 0.34.1, and against faults."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.artifacts import JobFolder, read_events
from finetuneflow.deploy.ollama import run
from finetuneflow.errors import FineTuneFlowError, JobCancelled, NotFoundError, ParityError, UsageError
from finetuneflow.providers.ollama_server import OllamaError
from finetuneflow.schemas.deployment import OllamaConfig, OllamaDeployment, OllamaInputs
from finetuneflow.schemas.event import LogEvent, ProgressEvent
from finetuneflow.schemas.export import ParityPrompt, ParityResult, ParityThresholds

PROMPTS = 24
SYSTEM = "Tu réponds en bref."


def answer_to(number: int) -> str:
    return f"Application {number} : gestion des congés."


def parity(
    *, equal: int = PROMPTS, passed: bool = True, system: str | None = None, alike: int = PROMPTS
) -> ParityResult:
    """The check of an export whose answers were alike for `equal` of the prompts; `alike` of the examples."""
    head = [{"role": "system", "content": system}] if system else []
    return ParityResult(
        passed=passed,
        quantization="f16",
        prompts=PROMPTS,
        top1_agreement=1,
        median_max_logprob_difference=0.001,
        max_logprob_difference=0.01,
        vocabulary=100,
        rendered_equal=PROMPTS,
        ids_equal=PROMPTS,
        continuations=PROMPTS,
        continuations_equal=equal,
        thresholds=ParityThresholds(median_max_logprob_difference=0.02, top1_agreement=0.99),
        runtime="llama.cpp",
        seconds=1,
        examples=[
            ParityPrompt(
                messages=[*head, {"role": "user", "content": f"Qu'est-ce que l'application {number} ?"}],
                source="test",
                ids=list(range(40)),
                trained_text=answer_to(number),
                served_text=answer_to(number),
                continuation_equal=number < alike,
            )
            for number in range(PROMPTS)
        ],
    )


class Case:
    """An export on disk, and the deployment of it to the fake."""

    def __init__(self, folder: Path, ollama: Any, reply: Any) -> None:
        self.ollama = ollama
        self.gguf = folder / "export" / "gguf" / "model.gguf"
        self.gguf.parent.mkdir(parents=True)
        self.gguf.write_bytes(b"GGUF" + bytes(range(256)) * 512)
        self.sha256 = hashlib.sha256(self.gguf.read_bytes()).hexdigest()
        self.parity = self.gguf.with_name("parity.json")
        self.check = parity()
        self.job = JobFolder(folder / "deploy-20261120-120000-abcdef")
        self.job.path.mkdir()
        self.wrong: set[int] = set()
        self.asked: list[Any] = []
        self._reply = reply
        ollama.answer = self.answer

    def answer(self, question: Any) -> Any:
        """What the trained model says, but for the prompts in `wrong`."""
        self.asked.append(question)
        number = int("".join(filter(str.isdigit, question.messages[-1]["content"])))
        return self._reply("Je ne sais pas." if number in self.wrong else answer_to(number) + "\n")

    def deploy(self, *, inputs: dict[str, Any] | None = None, **config: Any) -> OllamaDeployment:
        """Runs the stage."""
        self.parity.write_text(self.check.model_dump_json(), encoding="utf-8")
        values: dict[str, Any] = {
            "run_id": "run-1",
            "export_id": "export-1",
            "gguf": str(self.gguf),
            "sha256": self.sha256,
            "parity": str(self.parity),
        }
        return run(
            OllamaConfig.model_validate({"name": "applications-ia", "url": self.ollama.url} | config),
            OllamaInputs.model_validate(values | (inputs or {})),
            self.job,
        )

    def fails(
        self, kind: type[FineTuneFlowError], said: str | None = None, **config: Any
    ) -> FineTuneFlowError:
        """The error that the deployment ends with; the server is left without leftovers."""
        with pytest.raises(kind, match=said) as caught:
            self.deploy(**config)
        assert not [name for name in self.ollama.models if name.startswith("finetuneflow-check")]
        return caught.value

    def logs(self, level: str = "info") -> list[str]:
        """What the job told."""
        events = [numbered.event for numbered in read_events(self.job.path)]
        return [event.message for event in events if isinstance(event, LogEvent) and event.level == level]


@pytest.fixture
def case(tmp_path: Path, ollama: Any, reply: Any) -> Case:
    return Case(tmp_path, ollama, reply)


@pytest.mark.parametrize("version", ["0.33.0", "0.34.1", "0.35.2"])
def test_a_new_model(case: Case, version: str) -> None:
    case.ollama.version = version
    done = case.deploy(
        system=SYSTEM,
        parameters={"temperature": 0.7, "top_p": 0.9, "num_ctx": 256},
        inputs={"license": "Apache-2.0"},
    )
    assert (done.passed, done.created, done.prompts, done.answers_equal) == (True, True, 20, 20)
    assert (done.server_version, done.digest) == (version, f"sha256:{case.sha256}")
    assert done.uploaded_bytes == case.gguf.stat().st_size
    assert (done.first_difference, done.warnings) == (None, [])
    assert case.ollama.models == {
        "applications-ia:latest": {
            "files": {"model.gguf": f"sha256:{case.sha256}"},
            "system": SYSTEM,
            "license": "Apache-2.0",
            "parameters": {"repeat_penalty": 1, "temperature": 0.7, "top_p": 0.9, "num_ctx": 256},
        }
    }
    assert case.ollama.blob(done.digest).read_bytes() == case.gguf.read_bytes()


def test_the_modelfile_is_written_beside_the_file_that_it_names(case: Case) -> None:
    done = case.deploy(system=SYSTEM, parameters={"temperature": 0.7})
    written = (case.job.path / "Modelfile").read_text(encoding="utf-8")
    assert written == done.modelfile
    assert written.splitlines() == [
        "FROM ./model.gguf",
        "PARAMETER repeat_penalty 1",
        "PARAMETER temperature 0.7",
        f'SYSTEM """{SYSTEM}"""',
    ]
    assert (case.job.path / "model.gguf").read_bytes() == case.gguf.read_bytes()


@pytest.mark.parametrize("version", ["0.33.0", "0.34.1"])
def test_the_questions_are_asked_as_the_trained_model_was_asked(case: Case, version: str) -> None:
    case.ollama.version = version
    case.deploy(system="Parle comme un pirate.", parameters={"temperature": 0.7, "stop": ["a"]}, prompts=3)
    assert len(case.asked) == 3
    for number, question in enumerate(case.asked):
        assert question.messages == case.check.examples[number].messages
        assert question.options == {
            "temperature": 0,
            "seed": 0,
            "num_predict": 96,
            "repeat_penalty": 1,
            "num_ctx": 136,
        }


def test_a_prompt_with_its_own_system_keeps_it(case: Case) -> None:
    case.check = parity(system=SYSTEM)
    case.deploy(system=SYSTEM, prompts=1)
    assert [turn["role"] for turn in case.asked[0].messages] == ["system", "user"]


def test_the_window_is_that_of_the_model_when_it_is_wider(case: Case) -> None:
    case.deploy(parameters={"num_ctx": 2048}, prompts=1)
    assert case.asked[0].options["num_ctx"] == 2048


def test_a_model_of_that_name_is_replaced(case: Case) -> None:
    assert case.deploy(system="avant").created
    done = case.deploy(name="Applications-IA:latest", system="après")
    assert not done.created
    assert list(case.ollama.models) == ["applications-ia:latest"]
    assert case.ollama.models["applications-ia:latest"]["system"] == "après"
    assert case.logs()[-1] == "`Applications-IA:latest` replaced"


def test_what_the_server_has_is_not_sent_again(case: Case) -> None:
    case.deploy()
    done = case.deploy(name="another")
    assert done.uploaded_bytes == 0
    assert len(case.ollama.paths("POST", "/api/blobs")) == 1


def test_the_upload_and_the_check_show_progress(case: Case) -> None:
    case.deploy()
    events = [numbered.event for numbered in read_events(case.job.path)]
    stages = {event.stage: event for event in events if isinstance(event, ProgressEvent)}
    assert list(stages) == ["upload, MB", "check"]
    assert (stages["check"].step, stages["check"].total_steps) == (20, 20)


def test_a_model_that_answers_otherwise_never_gets_the_name(case: Case) -> None:
    case.deploy(system="avant")
    case.wrong = {2, 5, 7}
    error = case.fails(ParityError, "17 of 20 answers are the same", system="après")
    assert "prompt 3 (Qu'est-ce que l'application 2 ?), from character 1 on" in error.message
    assert "`Application 2 : gestion des congés.`, Ollama `Je ne sais pas.`" in error.message
    assert "`applications-ia` on the server is as it was" in error.message
    assert case.ollama.models["applications-ia:latest"]["system"] == "avant"


def test_a_bad_first_model_leaves_nothing_behind(case: Case) -> None:
    case.wrong = set(range(20))
    case.fails(ParityError, "0 of 20")
    assert case.ollama.models == {}
    assert list(case.ollama.folder.iterdir()) == []


def test_one_answer_of_twenty_may_differ_and_is_told(case: Case) -> None:
    case.wrong = {4}
    done = case.deploy()
    assert (done.passed, done.answers_equal) == (True, 19)
    assert done.first_difference is not None
    assert done.first_difference.startswith("prompt 5 (Qu'est-ce que l'application 4 ?)")


def test_a_coarser_format_is_held_to_what_its_own_check_gave(case: Case) -> None:
    case.wrong = set(range(8))
    case.check = parity(equal=15)
    assert case.deploy().answers_equal == 12
    case.wrong = set(range(10))
    case.fails(ParityError, "10 of 20")


def test_an_answer_that_runs_on_is_a_difference(case: Case, reply: Any) -> None:
    # The end token got lost: the text begins right and never ends.
    case.ollama.answer = lambda question: reply(case.answer(question).text.strip() + " Et encore", True)
    error = case.fails(ParityError, "0 of 20")
    assert "the trained model says ``, Ollama `Et encore`" in error.message


def test_an_answer_that_was_cut_may_end_a_few_characters_early(case: Case, reply: Any) -> None:
    case.ollama.answer = lambda question: reply(case.answer(question).text.strip()[:-4], True)
    assert case.deploy().answers_equal == 20


@pytest.mark.parametrize("characters", [0, 12])
def test_an_answer_that_was_cut_long_before_its_end_is_a_difference(
    case: Case, reply: Any, characters: int
) -> None:
    case.ollama.answer = lambda question: reply(case.answer(question).text[:characters], True)
    case.fails(ParityError, "0 of 20")


@pytest.mark.parametrize("alike", [0, 4])
def test_a_file_too_coarse_to_be_checked_by_answers_is_not_sent(case: Case, alike: int) -> None:
    case.check = parity(equal=alike, alike=alike)
    case.wrong = set(range(20))
    error = case.fails(UsageError, f"too coarse .* {alike} of 20 were those of the trained model")
    assert error.code == "too_coarse"
    assert "--quantization q8_0" in error.hint
    assert case.ollama.requests == []


def test_a_coarse_file_with_a_few_answers_alike_is_checked_by_them(case: Case) -> None:
    case.check = parity(equal=6, alike=6)
    case.wrong = set(range(5, 20))
    assert case.deploy().answers_equal == 5
    case.wrong = set(range(4, 20))
    case.fails(ParityError, "4 of 20")


def test_an_answer_that_stops_early_is_a_difference(case: Case, reply: Any) -> None:
    case.ollama.answer = lambda question: reply(case.answer(question).text[:12], False)
    case.fails(ParityError, "0 of 20")


def test_thoughts_that_the_server_keeps_apart_count_as_text(case: Case, reply: Any) -> None:
    for example in case.check.examples:
        example.trained_text = f"<think>\nVoyons.\n</think>\n\n{example.trained_text}"
    ollama, answer = case.ollama, case.answer
    ollama.answer = lambda question: reply(answer(question).text, False, "Voyons.")
    assert case.deploy().answers_equal == 20
    ollama.answer = lambda question: reply(answer(question).text, False, "Autre chose.")
    case.fails(ParityError, "0 of 20")


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"name": "mon modèle"}, "ollama_name"),
        ({"parameters": {"temprature": 0.7}}, "ollama_parameter"),
        ({"parameters": {"num_ctx": "many"}}, "ollama_parameter"),
        ({"url": "ftp://127.0.0.1"}, "ollama_url"),
        ({"url": "http://models.example:11434"}, "ollama_remote"),
        ({"use_adapter": True}, "usage"),
    ],
)
def test_what_cannot_work_is_refused_before_the_server_hears_of_it(
    case: Case, config: dict[str, Any], code: str
) -> None:
    assert case.fails(UsageError, **config).code == code
    assert case.ollama.requests == []


def test_files_that_are_gone_and_exports_that_failed_are_refused(case: Case) -> None:
    case.check = parity(passed=False)
    case.fails(ParityError, "did not pass its own check")
    case.check = parity()
    case.gguf.unlink()
    case.fails(NotFoundError, "is gone")
    assert case.ollama.requests == []


@pytest.mark.parametrize(
    ("version", "config", "code"),
    [
        ("0.5.4", {}, "ollama_too_old"),
        ("0.34.1", {"parameters": {"typical_p": 0.5}}, "ollama_parameter"),
    ],
)
def test_what_the_version_cannot_do_is_refused_before_the_upload(
    case: Case, version: str, config: dict[str, Any], code: str
) -> None:
    case.ollama.version = version
    assert case.fails(OllamaError, **config).code == code
    assert case.ollama.paths("POST") == []


@pytest.fixture
def parts(case: Case, tmp_path: Path) -> dict[str, str]:
    """Base and adapter apart."""
    found = {}
    for key, name in (("base_gguf", "base.gguf"), ("gguf_adapter", "adapter.gguf")):
        (tmp_path / name).write_bytes(b"GGUF" + name.encode() * 100)
        found[key] = str(tmp_path / name)
    return found


def test_base_and_adapter_go_apart_to_a_server_that_takes_them(case: Case, parts: dict[str, str]) -> None:
    case.ollama.version = "0.33.0"
    done = case.deploy(use_adapter=True, inputs=parts)
    model = case.ollama.models["applications-ia:latest"]
    sums = {key: hashlib.sha256(Path(path).read_bytes()).hexdigest() for key, path in parts.items()}
    assert model["files"] == {"model.gguf": f"sha256:{sums['base_gguf']}"}
    assert model["adapters"] == {"adapter.gguf": f"sha256:{sums['gguf_adapter']}"}
    assert done.digest == f"sha256:{sums['base_gguf']}"
    assert "ADAPTER ./adapter.gguf" in done.modelfile
    assert (case.job.path / "adapter.gguf").is_file()


def test_adapters_are_refused_before_the_upload_from_0_34_1_on(case: Case, parts: dict[str, str]) -> None:
    error = case.fails(OllamaError, "0.34.1 refuses adapters", use_adapter=True, inputs=parts)
    assert error.code == "ollama_no_adapters"
    assert "--adapter" in error.hint
    assert case.ollama.paths("POST") == []


def test_a_late_failure_leaves_the_model_that_was_there(case: Case) -> None:
    case.deploy(system="avant")
    case.ollama.fails_late_for = "applications-ia"
    case.fails(OllamaError, "could not create `applications-ia`: write manifest", system="après")
    assert case.ollama.models["applications-ia:latest"]["system"] == "avant"
    assert case.ollama.blob(f"sha256:{case.sha256}").is_file()


def test_a_late_failure_of_the_first_step(case: Case) -> None:
    case.ollama.fails_late_for = "finetuneflow-check:deploy-20261120-120000-abcdef"
    case.fails(OllamaError, "could not create `finetuneflow-check")
    assert case.ollama.models == {}


def test_a_full_disk_on_the_server(case: Case) -> None:
    case.ollama.disk_full_after = 1000
    assert "disk may be full" in case.fails(OllamaError, "could not send the model").hint
    assert case.ollama.models == {}


def test_a_damaged_export_is_not_deployed(case: Case) -> None:
    data = bytearray(case.gguf.read_bytes())
    data[70_000] ^= 1
    case.gguf.write_bytes(data)
    assert case.fails(OllamaError, "is not the file that was exported").code == "ollama_digest"


def test_no_server(case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = case.fails(OllamaError, "no Ollama server answers", url=f"http://127.0.0.1:{port}")
    assert error.code == "ollama_unreachable"


@pytest.mark.parametrize(("version", "said"), [("0.17.0", "CVE-2026-7482"), ("0.29.0", "guesses the chat")])
def test_versions_to_worry_about_are_told(case: Case, version: str, said: str) -> None:
    case.ollama.version = version
    done = case.deploy()
    assert said in done.warnings[0]
    assert case.logs("warning") == done.warnings


def test_what_a_modelfile_cannot_hold_is_told_and_the_server_gets_it_whole(case: Case) -> None:
    system = "Qu'est-ce que 6tzen\u00a0?"
    done = case.deploy(system=system)
    assert case.ollama.models["applications-ia:latest"]["system"] == system
    assert any("the Modelfile cannot hold it" in warning for warning in done.warnings)


def test_a_server_elsewhere_is_used_when_that_is_wanted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # The name stands for this machine, which the deployment cannot know.
    port = case.ollama.url.rpartition(":")[2]
    known: Callable[..., Any] = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **more: Any) -> Any:
        return known("127.0.0.1" if host in ("models.example", b"models.example") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    case.fails(UsageError, "not on this machine", url=f"http://models.example:{port}")
    done = case.deploy(url=f"http://models.example:{port}", allow_remote=True)
    assert "no authentication" in done.warnings[0]


def test_a_cancelled_deployment_cleans_up(case: Case, reply: Any) -> None:
    def cancel(question: Any) -> Any:
        (case.job.path / "cancel").touch()
        return case.answer(question)

    case.ollama.answer = cancel
    case.fails(JobCancelled, "stopped")
    assert len(case.asked) == 1
    assert case.ollama.models == {}
