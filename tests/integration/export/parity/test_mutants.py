"""The check is worth something only if it fails: one planted fault each, the smallest there is."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from finetuneflow.artifacts import sha256_file
from finetuneflow.errors import ModelError
from finetuneflow.export.gguf import architectures
from finetuneflow.export.gguf import file as gguf_file
from finetuneflow.export.gguf.architectures import Field
from finetuneflow.export.gguf.file import write_gguf
from finetuneflow.modeling.llama_cpp import Completion, Llama
from finetuneflow.schemas.export import ParityResult

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SmallModel = Callable[[str], Path]
Adapter = Callable[..., Path]
Check = Callable[..., ParityResult]


@pytest.fixture(scope="module")
def base(small_model: SmallModel) -> Path:
    """A Llama 3 with rotary base 500,000."""
    return small_model("llama3")


@pytest.fixture(scope="module")
def adapter(base: Path, adapter_for: Adapter) -> Path:
    """A LoRA adapter of rank 8, alpha 32, on it."""
    return adapter_for(base)


@pytest.fixture
def served(base: Path, adapter: Path, check: Check, tmp_path: Path) -> Callable[..., str]:
    """The first difference that the check finds in a file written now, then changed by `edit`."""

    def first_difference(edit: Callable[[bytes], bytes] = bytes, melted: Path | None = adapter) -> str:
        file = tmp_path / "model.gguf"
        write_gguf(file, base, adapter=melted, name="mutant")
        before = file.read_bytes()
        file.write_bytes(edit(before))
        result = check(file, base, adapter)
        assert not result.passed
        assert result.failures
        assert result.first_difference is not None
        return result.first_difference

    return first_difference


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """An edit of a file: bytes that occur in it, by as many others, once."""
    assert len(old) == len(new)

    def edit(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return edit


def changed_adapter(adapter: Path, folder: Path, **settings: Any) -> Path:
    """A copy of an adapter that says otherwise of itself."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    return folder


def test_rows_of_queries_and_keys_left_in_their_order(
    served: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(rows: np.ndarray, *, head_size: int) -> np.ndarray:
        return rows

    monkeypatch.setattr(architectures, "interleave_halves", left)

    assert "queries or keys" in served()


def test_alpha_ignored(served: Callable[..., str], adapter: Path, tmp_path: Path) -> None:
    mutant = changed_adapter(adapter, tmp_path / "mutant", lora_alpha=8)  # of rank 8: scale 1

    assert "alpha was ignored" in served(melted=mutant)


def test_divided_by_the_root_of_the_rank_where_the_rank_was_meant(
    served: Callable[..., str], adapter: Path, tmp_path: Path
) -> None:
    mutant = changed_adapter(adapter, tmp_path / "mutant", use_rslora=True)

    assert "square root" in served(melted=mutant)


def test_adapter_left_out(served: Callable[..., str]) -> None:
    assert "the adapter is not in the file" in served(melted=None)


def test_rotary_base_lost(served: Callable[..., str]) -> None:
    found = served(replaced(b"llama.rope.freq_base", b"llama.rope.freq_bass"))

    assert "rotary base is 10000 in the file and 500000" in found


def test_chat_template_changed_by_one_character(served: Callable[..., str]) -> None:
    found = served(replaced(b"assistant<|end_header_id|>\n\n", b"assistant<|end_header_id|>\n "))

    assert "chat template in the file is another one" in found
    assert "at character" in found


def test_end_token_not_named(served: Callable[..., str]) -> None:
    found = served(replaced(b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.eox_token_id"))

    assert "does not say which token ends an answer" in found
    assert "<|eot_id|>" in found


def test_end_token_that_llama_cpp_goes_on_after(
    small_model: SmallModel, check: Check, tmp_path: Path
) -> None:
    # llama.cpp knows `<|im_end|>` by name; a template of one's own ends with what nobody knows.
    base = tmp_path / "base"
    shutil.copytree(small_model("smollm"), base)
    for path in [*base.glob("*.json"), *base.glob("*.jinja")]:
        path.write_text(path.read_text(encoding="utf-8").replace("<|im_end|>", "<|fin|>"), encoding="utf-8")
    file = tmp_path / "model.gguf"
    write_gguf(file, base, name="own end")
    assert check(file, base, None).passed

    keys = replaced(b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.eox_token_id")
    pads = replaced(b"tokenizer.ggml.eot_token_id", b"tokenizer.ggml.eox_token_ie")
    data = keys(file.read_bytes())
    file.write_bytes(pads(data) if b"tokenizer.ggml.eot_token_id" in data else data)
    result = check(file, base, None)

    assert not result.passed
    assert "llama.cpp goes on after it: the end token is missing" in (result.first_difference or "")
    assert "<|fin|>" in (result.first_difference or "")


@pytest.mark.parametrize(
    ("architecture", "key", "value", "kind", "cause"),
    [
        ("phi3", "tokenizer.ggml.add_bos_token", True, "BOOL", "beginning-of-sequence token"),
        ("llama3", "tokenizer.ggml.pre", "gpt-2", "STRING", "the tokenizer (its pre-tokenizer"),
    ],
)
def test_a_tokenizer_that_reads_otherwise(
    architecture: str,
    key: str,
    value: Any,
    kind: str,
    cause: str,
    small_model: SmallModel,
    check: Check,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    right = gguf_file.tokenizer_fields
    monkeypatch.setattr(
        gguf_file,
        "tokenizer_fields",
        lambda *args, **more: [*right(*args, **more), Field(key, value, kind)],
    )
    base = small_model(architecture)
    write_gguf(tmp_path / "model.gguf", base, name="mutant")

    result = check(tmp_path / "model.gguf", base, None)

    assert not result.passed
    assert cause in (result.first_difference or "")


def test_the_cause_in_french(base: Path, check: Check, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(file, base, name="mutant")
    lost = replaced(b"llama.rope.freq_base", b"llama.rope.freq_bass")
    file.write_bytes(lost(file.read_bytes()))

    result = check(file, base, None, language="fr")

    assert "la base rotative est 10000 dans le fichier" in (result.first_difference or "")


@pytest.mark.parametrize("fault", ["short", "shifted"])
def test_vocabulary_off_by_one(
    fault: str, served: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gguf_file.tokenizer_fields

    def mutant(*args: Any, **more: Any) -> list[Field]:
        wrong = []
        for field in right(*args, **more):
            if field.key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
                values = list(field.value)
                field = field._replace(value=values[:-1] if fault == "short" else values[-1:] + values[:-1])
            wrong.append(field)
        return wrong

    monkeypatch.setattr(gguf_file, "tokenizer_fields", mutant)

    found = served()

    if fault == "short":
        assert "447 tokens and the trained model 448" in found
    else:
        assert "token 1 of the prompt is" in found


def test_an_adapter_made_for_another_base_is_refused(
    base: Path, adapter: Path, check: Check, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match="another base"):
        write_gguf(tmp_path / "model.gguf", other, adapter=adapter, name="mutant")
    with pytest.raises(ModelError, match="another base"):
        check(tmp_path / "model.gguf", other, adapter)
    assert not (tmp_path / "model.gguf").exists()


def test_a_flipped_byte_changes_the_recorded_sum(base: Path, adapter: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    written = write_gguf(file, base, adapter=adapter, name="mutant")
    data = file.read_bytes()
    assert sha256_file(file) == written.sha256

    for position in random.Random(0).sample(range(len(data)), 50):  # noqa: S311 - where, not a secret
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        file.write_bytes(flipped)
        assert sha256_file(file) != written.sha256


def test_a_file_cut_short_is_a_failed_check_and_not_a_crash(
    base: Path, adapter: Path, served: Callable[..., str]
) -> None:
    found = served(lambda data: data[: len(data) // 2])

    assert "llama.cpp cannot load" in found


def test_one_answer_of_the_same_tokens_and_another_text_fails(
    small_model: SmallModel, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = small_model("smollm")
    write_gguf(tmp_path / "model.gguf", base, name="mutant")
    right = Llama.chat
    asked: list[Any] = []

    def chat(self: Llama, messages: Any, **more: Any) -> Completion:
        answer = right(self, messages, **more)
        asked.append(messages)
        return replace(answer, text="other words") if len(asked) == 3 else answer

    monkeypatch.setattr(Llama, "chat", chat)

    result = check(tmp_path / "model.gguf", base, None, max_new_tokens=48)

    assert not result.passed
    assert "prompt 3" in (result.first_difference or "")
    assert "the server gives the text 'other words'" in (result.first_difference or "")


def test_one_answer_with_another_end_fails(
    small_model: SmallModel, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = small_model("smollm")
    write_gguf(tmp_path / "model.gguf", base, name="mutant")
    right, right_ids = Llama.chat, Llama.complete
    asked: list[Any] = []

    def chat(self: Llama, messages: Any, **more: Any) -> Completion:
        answer = right(self, messages, **more)
        asked.append(messages)
        return replace(answer, text=answer.text[:-2], stopped=True) if len(asked) == 3 else answer

    def complete(self: Llama, ids: Any, **more: Any) -> Completion:
        answer = right_ids(self, ids, **more)
        return replace(answer, ids=answer.ids[:-1], stopped=True)

    monkeypatch.setattr(Llama, "chat", chat)
    monkeypatch.setattr(Llama, "complete", complete)

    result = check(tmp_path / "model.gguf", base, None, max_new_tokens=48)

    assert not result.passed
    assert "ends its answer after 48 tokens, the served one after 47" in (result.first_difference or "")


def test_a_chat_that_says_another_end_fails(
    small_model: SmallModel, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = small_model("smollm")
    write_gguf(tmp_path / "model.gguf", base, name="mutant")
    right = Llama.chat
    asked: list[Any] = []

    def chat(self: Llama, messages: Any, **more: Any) -> Completion:
        answer = right(self, messages, **more)
        asked.append(messages)
        return replace(answer, stopped=not answer.stopped) if len(asked) == 3 else answer

    monkeypatch.setattr(Llama, "chat", chat)

    result = check(tmp_path / "model.gguf", base, None)

    assert not result.passed
    assert "prompt 3" in (result.first_difference or "")
    assert "ends its answer after" in (result.first_difference or "")


def test_answers_that_part_late_are_a_share_of_what_was_read(
    small_model: SmallModel, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = small_model("smollm")
    write_gguf(tmp_path / "model.gguf", base, quantization="q8_0", name="mutant")
    right, right_ids = Llama.chat, Llama.complete

    def chat(self: Llama, messages: Any, **more: Any) -> Completion:
        return replace(right(self, messages, **more), text="other words")

    def complete(self: Llama, ids: Any, **more: Any) -> Completion:
        answer = right_ids(self, ids, **more)
        least = int(right_probabilities(self, [*ids, *answer.ids[:5]]).argmin())
        return replace(answer, ids=[*answer.ids[:5], least, *answer.ids[6:]])

    right_probabilities = Llama.log_probabilities
    monkeypatch.setattr(Llama, "chat", chat)
    monkeypatch.setattr(Llama, "complete", complete)

    result = check(tmp_path / "model.gguf", base, None, "q8_0", max_new_tokens=48)

    assert not result.passed
    assert any("part where the trained model is sure" in failure for failure in result.failures)


def test_what_goes_wrong_at_a_distance_alone_fails(
    small_model: SmallModel, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = small_model("smollm")
    write_gguf(tmp_path / "model.gguf", base, name="mutant")
    right = Llama.log_probabilities

    def far(self: Llama, ids: Any) -> np.ndarray:
        row = right(self, ids)
        if len(ids) > 240:
            row[int(row.argmin())] += 0.5
        return row

    monkeypatch.setattr(Llama, "log_probabilities", far)

    result = check(tmp_path / "model.gguf", base, None, max_new_tokens=4)

    assert not result.passed
    assert result.median_max_logprob_difference <= 0.02
    assert "the log-probability of the next token" in (result.first_difference or "")
