from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.artifacts import JobFolder, read_events, write_lines
from finetuneflow.errors import JobCancelled, ModelError, UsageError
from finetuneflow.evaluation import answerers_local
from finetuneflow.evaluation.run import run
from finetuneflow.export.gguf.file import write_gguf
from finetuneflow.schemas.answerer import AnswererSpec, Answering, ArmSpeeds
from finetuneflow.schemas.evaluation import EvaluateInputs, EvaluationConfig, TestItem
from finetuneflow.schemas.event import ProgressEvent

pytestmark = pytest.mark.integration
CONFIG = EvaluationConfig(max_new_tokens=8, batch_size=2, bootstrap_samples=200)


def items(trained: Any, facts: dict[str, str], *, passages: bool = True) -> list[TestItem]:
    rows = []
    for number, (name, fact) in enumerate(facts.items()):
        messages = [{"role": "user", "content": f"{name} ?"}]
        found = [f"{name} = {fact}", "rien"] if passages else []
        asked = f"Contexte :\n{found[0]}\n\n{found[1]}\n\nQuestion : {name} ?" if found else ""
        rows.append(
            TestItem(
                id=name,
                messages=messages,
                expected=fact,
                question_type="status" if number % 2 else "definition",
                wording_held_out=number == 6,
                passages=found,
                rag_messages=[{"role": "user", "content": asked}] if found else [],
            )
        )
    return rows


@pytest.fixture
def facts(trained: Any) -> dict[str, str]:
    lines = (trained.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    return {user["content"].removesuffix(" ?"): assistant["content"] for user, assistant in rows}


def inputs(trained: Any, folder: Path, rows: list[TestItem], **changes: Any) -> EvaluateInputs:
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "items.jsonl", (row.model_dump_json() for row in rows))
    values = {
        "items": str(folder / "items.jsonl"),
        "base_model": str(trained.base),
        "adapter": str(trained.adapter),
        "precision": "fp32",
        "run_id": "run-1",
    }
    return EvaluateInputs(**(values | changes))


def test_three_arms_answer_the_same_items_and_tuning_is_seen_to_work(
    trained: Any, facts: dict[str, str], tmp_path: Path
) -> None:
    rows = items(trained, facts)
    result = run(CONFIG, inputs(trained, tmp_path, rows), JobFolder(tmp_path))
    assert list(result.arms) == ["base", "rag", "tuned"]
    tuned, base = result.arms["tuned"].overall, result.arms["base"].overall
    assert tuned is not None
    assert base is not None
    assert tuned.items == base.items == 6
    assert tuned.exact_match.value == 1.0
    assert base.exact_match.value < 0.2
    assert result.arms["tuned"].held_out_wordings is not None
    assert result.arms["tuned"].held_out_wordings.items == 1
    assert set(result.arms["tuned"].by_question_type) == {"definition", "status"}
    assert [comparison.baseline for comparison in result.comparisons] == ["base", "rag"]
    assert result.verdict is not None
    assert result.verdict.outcome in ("PASS", "NOT ENOUGH DATA")
    assert any("wordings never seen" in reason for reason in result.verdict.reasons)
    assert result.errors == []
    lines = [
        json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [(line["arm"], line["item_id"]) for line in lines] == [
        (arm, row.id) for arm in ("base", "rag", "tuned") for row in rows
    ]
    steps = [event.event.step for event in read_events(tmp_path) if isinstance(event.event, ProgressEvent)]
    assert steps[0] == 0
    assert steps[-1] == 21
    assert steps == sorted(steps)


def test_a_stopped_evaluation_goes_on_where_it_was_and_ends_the_same(
    trained: Any, facts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = items(trained, facts)
    whole = run(CONFIG, inputs(trained, tmp_path / "whole", rows), JobFolder(tmp_path / "whole"))
    asked: list[int] = []
    generate = answerers_local.generate

    def counted(loaded: Any, conversations: list[Any], **kwargs: Any) -> Any:
        asked.append(len(conversations))
        if len(asked) == 6:
            (tmp_path / "part" / "cancel").touch()
        return generate(loaded, conversations, **kwargs)

    monkeypatch.setattr(answerers_local, "generate", counted)
    given = inputs(trained, tmp_path / "part", rows)
    with pytest.raises(JobCancelled):
        run(CONFIG, given, JobFolder(tmp_path / "part"))
    assert len(asked) == 6
    (tmp_path / "part" / "cancel").unlink()
    part = run(CONFIG, given, JobFolder(tmp_path / "part", resume=True))
    assert sum(asked) == 21  # no item was asked twice

    def texts(folder: str) -> list[tuple[str, str, str]]:
        lines = (tmp_path / folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        found = map(json.loads, lines)
        return [(line["arm"], line["item_id"], line["predicted"]) for line in found]

    assert texts("part") == texts("whole")
    assert part.test_set_hash == whole.test_set_hash
    assert part.verdict == whole.verdict


def test_four_arms_load_two_models_and_a_second_evaluation_answers_nothing(
    trained: Any, facts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = items(trained, facts)
    config = CONFIG.model_copy(update={"arms": ["tuned_rag", "base", "rag", "tuned"]})
    loads: list[Any] = []
    asked: list[Any] = []
    load, generate = answerers_local.load_causal_lm, answerers_local.generate
    monkeypatch.setattr(
        answerers_local, "load_causal_lm", lambda *a, **k: loads.append(k["adapter"]) or load(*a, **k)
    )
    monkeypatch.setattr(answerers_local, "generate", lambda *a, **k: asked.extend(a[1]) or generate(*a, **k))
    results = []
    for name in ("first", "second"):
        given = inputs(trained, tmp_path / name, rows)
        sidecar = Answering(cache=str(tmp_path / "shared"))
        (tmp_path / name / "answerers.json").write_text(sidecar.model_dump_json(), encoding="utf-8")
        results.append(run(config, given, JobFolder(tmp_path / name)))
    assert list(results[0].arms) == ["base", "rag", "tuned", "tuned_rag"]
    assert loads == [None, trained.adapter]
    assert len(asked) == 4 * len(rows)
    assert results[0].arms == results[1].arms
    speeds = [
        ArmSpeeds.model_validate_json((tmp_path / name / "speeds.json").read_bytes()).arms
        for name in ("first", "second")
    ]
    assert [speed.asked for speed in speeds[0].values()] == [7, 7, 7, 7]
    assert [speed.asked for speed in speeds[1].values()] == [0, 0, 0, 0]
    assert speeds[0]["base"].answerer == speeds[0]["rag"].answerer != speeds[0]["tuned"].answerer
    for speed in speeds[1].values():
        assert speed.tokens_per_second is not None
        assert speed.tokens_per_second > 0
        assert speed.latency_p50_seconds is not None
        assert 0 < speed.latency_p50_seconds <= (speed.latency_p95_seconds or 0)


def test_the_exported_file_answers_as_the_tuned_model(
    trained: Any, facts: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, trained.base, adapter=trained.adapter, quantization="f32", name="facts")
    rows = items(trained, facts)
    given = inputs(trained, tmp_path, rows, adapter=None)
    served = AnswererSpec(kind="gguf", model=str(path), parallel=2)
    sidecar = Answering(arms={"tuned": served, "served+rag": served.model_copy(update={"retrieval": True})})
    (tmp_path / "answerers.json").write_text(sidecar.model_dump_json(), encoding="utf-8")
    config = CONFIG.model_copy(update={"arms": ["base", "tuned", "served+rag"]})
    result = run(config, given, JobFolder(tmp_path))
    assert list(result.arms) == ["base", "tuned", "served+rag"]
    tuned = result.arms["tuned"].overall
    assert tuned is not None
    assert tuned.exact_match.value == 1.0
    speeds = ArmSpeeds.model_validate_json((tmp_path / "speeds.json").read_bytes()).arms
    assert speeds["tuned"].answerer.startswith("gguf ")
    assert speeds["tuned"].new_tokens


def test_passages_that_do_not_fit_the_context_are_left_out_and_told(
    trained: Any, facts: dict[str, str], tmp_path: Path
) -> None:
    row = items(trained, facts)[0]
    long = "z" * 200
    asked = f"Contexte :\n{row.passages[0]}\n\n{long}\n\nQuestion : {row.id} ?"
    fitting = row.model_copy(
        update={"passages": [row.passages[0], long], "rag_messages": [{"role": "user", "content": asked}]}
    )
    hopeless = row.model_copy(update={"id": "long", "messages": [{"role": "user", "content": long}]})
    config = CONFIG.model_copy(update={"arms": ["rag"]})
    run(config, inputs(trained, tmp_path, [fitting, hopeless]), JobFolder(tmp_path))
    told = (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    assert "1 passages left out" in told
    config = CONFIG.model_copy(update={"arms": ["base"]})
    result = run(config, inputs(trained, tmp_path / "b", [fitting, hopeless]), JobFolder(tmp_path / "b"))
    assert "1 questions are longer than 128 tokens and count as wrong" in (
        tmp_path / "b" / "events.jsonl"
    ).read_text(encoding="utf-8")
    assert result.items == 2


def test_arms_that_cannot_be_answered_are_left_out_and_told(
    trained: Any, facts: dict[str, str], tmp_path: Path
) -> None:
    rows = items(trained, facts, passages=False)
    result = run(CONFIG, inputs(trained, tmp_path, rows, adapter=None), JobFolder(tmp_path))
    assert list(result.arms) == ["base"]
    assert result.verdict is None
    assert "`rag` is left out" in (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    config = CONFIG.model_copy(update={"arms": ["rag"]})
    with pytest.raises(UsageError):
        run(config, inputs(trained, tmp_path, rows), JobFolder(tmp_path))


def test_an_adapter_of_another_base_is_refused(trained: Any, facts: dict[str, str], tmp_path: Path) -> None:

    other = tmp_path / "adapter"
    shutil.copytree(trained.adapter, other)
    (other / "base_fingerprint.txt").write_text("0123", encoding="utf-8")
    config = CONFIG.model_copy(update={"arms": ["tuned"]})
    with pytest.raises(ModelError, match="another base"):
        run(config, inputs(trained, tmp_path, items(trained, facts), adapter=str(other)), JobFolder(tmp_path))
