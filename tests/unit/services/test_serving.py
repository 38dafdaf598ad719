"""Which model is served for a reference, and by what; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from finetuneflow.errors import NotFoundError, UsageError
from finetuneflow.schemas.export import ExportResult, GgufResult, ParityResult, ParityThresholds
from finetuneflow.schemas.job import Job
from finetuneflow.schemas.recipe import Hyperparameters, Recipe
from finetuneflow.schemas.run import Run, TrainResult
from finetuneflow.services import serving
from finetuneflow.services.context import Context
from finetuneflow.services.serving import find_model, read_api_key

CONTEXT = cast(Context, None)


def gguf(passed: bool) -> GgufResult:
    parity = ParityResult(
        passed=passed,
        quantization="f16",
        prompts=20,
        top1_agreement=1,
        median_max_logprob_difference=0,
        max_logprob_difference=0,
        vocabulary=10,
        rendered_equal=20,
        ids_equal=20,
        continuations=0,
        continuations_equal=0,
        thresholds=ParityThresholds(median_max_logprob_difference=0.02, top1_agreement=0.99),
        runtime="llama.cpp",
        seconds=1,
    )
    return GgufResult(
        path="gguf/model.gguf",
        sha256="0",
        size_bytes=1,
        quantization="f16",
        architecture="llama",
        modelfile="Modelfile",
        parity=parity,
    )


class World:
    """Runs and exports as the other services would tell them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task: Any = "causal_lm"
        self.result: dict[str, Any] = {"adapter": "adapter", "model": None, "labels": []}
        self.latest: GgufResult | None = None
        self.exported: dict[str, Any] = {}

    def finished(self, _: Context, run_id: str) -> tuple[Run, TrainResult]:
        if run_id != "run-1":
            raise NotFoundError(f"there is no run `{run_id}`")
        hyper = Hyperparameters(
            num_epochs=1,
            learning_rate=1e-3,
            per_device_batch_size=1,
            max_seq_length=64,
            lora_r=1,
            lora_alpha=1,
            lora_dropout=0,
        )
        recipe = Recipe(
            base_model="embedded:tiny", dataset="d", task=self.task, output_model_name="applications-ia"
        )
        run = Run(
            id=run_id,
            name="facts",
            dataset_id="ds-1",
            recipe=recipe,
            status="success",
            folder=str(self.folder / "run"),
            created_at="",
        )
        trained = TrainResult(
            base_model="embedded:tiny",
            base_fingerprint="0",
            method="lora",
            steps=1,
            epochs=1,
            best_step=1,
            train_loss=1,
            trainable_parameters=1,
            parameters=1,
            tokens=1,
            supervised_tokens=1,
            tokens_per_second=1,
            seconds=1,
            precision="bf16",
            device="CPU",
            hyperparameters=hyper,
            **self.result,
        )
        return run, trained

    def job(self, _: Context, export_id: str) -> Job:
        folder = str(self.folder / "export")
        return Job(id=export_id, kind="export", status="success", folder=folder, created_at="")

    def newest(self, context: Context, run_id: str) -> tuple[Job, GgufResult, Path] | None:
        if self.latest is None:
            return None
        return self.job(context, "export-1"), self.latest, self.folder / "export" / self.latest.path

    def export(self, _: Context, __: str) -> ExportResult:
        return ExportResult(run_id="run-1", **self.exported)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(serving.runs, "finished", made.finished)
    monkeypatch.setattr(serving.jobs, "get_job", made.job)
    monkeypatch.setattr(serving.exports, "latest_gguf", made.newest)
    monkeypatch.setattr(serving.exports, "result", made.export)
    return made


def test_a_run_is_served_by_llama_cpp_once_a_gguf_passed_and_from_its_weights_before(world: World) -> None:
    before = find_model(CONTEXT, "run-1")
    assert (before.engine, before.name, before.precision) == ("transformers", "applications-ia", "bf16")
    assert before.adapter == str(world.folder / "run" / "adapter")
    assert before.model is None
    with pytest.raises(UsageError, match="no GGUF") as refused:
        find_model(CONTEXT, "run-1", engine="llama.cpp")
    assert "export run-1 --to gguf" in refused.value.hint
    world.latest = gguf(True)
    after = find_model(CONTEXT, "run-1")
    assert (after.engine, after.gguf) == ("llama.cpp", str(world.folder / "export/gguf/model.gguf"))
    assert find_model(CONTEXT, "run-1", engine="transformers") == before


def test_a_classifier_is_served_with_its_labels(world: World) -> None:
    world.task = "sequence_classification"
    world.result = {"adapter": None, "model": "model", "labels": ["joie", "colère"]}
    found = find_model(CONTEXT, "run-1")
    assert (found.task, found.labels) == ("sequence_classification", ["joie", "colère"])
    assert found.model == str(world.folder / "run" / "model")
    with pytest.raises(UsageError, match="classifier"):
        find_model(CONTEXT, "run-1", engine="llama.cpp")


def test_an_export_is_served_by_what_it_holds(world: World) -> None:
    world.exported = {"merged": "merged"}
    merged = find_model(CONTEXT, "export-1")
    assert (merged.engine, merged.adapter) == ("transformers", None)
    assert merged.model == str(world.folder / "export" / "merged")
    with pytest.raises(UsageError, match="no GGUF"):
        find_model(CONTEXT, "export-1", engine="llama.cpp")
    world.exported = {"gguf": gguf(True), "merged": "merged"}
    assert find_model(CONTEXT, "export-1").gguf == str(world.folder / "export/gguf/model.gguf")
    assert find_model(CONTEXT, "export-1", engine="transformers") == merged
    world.exported = {"gguf": gguf(False)}
    with pytest.raises(UsageError, match="failed its check"):
        find_model(CONTEXT, "export-1")


def test_a_file_is_served_as_it_is(world: World) -> None:
    path = world.folder / "mine.gguf"
    with pytest.raises(NotFoundError, match="there is no file"):
        find_model(CONTEXT, str(path))
    path.touch()
    found = find_model(CONTEXT, str(path))
    assert (found.engine, found.name, found.gguf) == ("llama.cpp", "mine", str(path))
    with pytest.raises(UsageError, match="GGUF"):
        find_model(CONTEXT, str(path), engine="transformers")


def test_an_unknown_run_is_not_found(world: World) -> None:
    with pytest.raises(NotFoundError, match="no run `run-2`"):
        find_model(CONTEXT, "run-2")


def test_the_network_is_refused_before_anything_is_loaded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FTF_SERVE_API_KEY", raising=False)
    everywhere = "0.0.0.0"  # noqa: S104 - refused
    with pytest.raises(UsageError, match="no API key"):
        serving.serve(CONTEXT, "run-2", host=everywhere, on_ready=print)


def test_a_key_comes_as_it_is_or_from_a_file_that_nobody_else_may_read(tmp_path: Path) -> None:
    assert [read_api_key(given) for given in (None, "", "s3cret")] == [None, None, "s3cret"]
    path = tmp_path / "key"
    with pytest.raises(NotFoundError, match="cannot be read"):
        read_api_key(f"@{path}")
    path.write_text("s3cret\n", encoding="utf-8")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        read_api_key(f"@{path}")
    path.chmod(0o600)
    assert read_api_key(f"@{path}") == "s3cret"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="empty"):
        read_api_key(f"@{path}")
