"""What the check of a GGUF file asks, how it names a difference, and the page it writes."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from jinja2 import TemplateError

from finetuneflow.errors import ModelError
from finetuneflow.export.parity.file import read_facts, rope_base_of
from finetuneflow.export.parity.findings import Findings, around, first_unlike, shown, wordings
from finetuneflow.export.parity.prompts import (
    catalogue,
    generated_prompts,
    held_out_prompts,
    thresholds_of,
    tokenizer_texts,
)
from finetuneflow.export.parity.report import render_parity
from finetuneflow.schemas.example import Example, Message
from finetuneflow.schemas.export import ExportConfig, ParityPrompt, ParityResult, Quantization


class CharacterTokenizer:
    """A token a character; the template joins the turns, and may refuse a system prompt."""

    chat_template = "joined"

    def __init__(self, *, takes_system: bool = True) -> None:
        self.takes_system = takes_system

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        if not self.takes_system and messages[0]["role"] == "system":
            raise TemplateError("no system role")
        return "".join(f"<{turn['role'][0]}>{turn['content']}" for turn in messages) + "<a>"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def question(text: str, answer: str = "oui") -> Example:
    return Example(messages=[Message(role="user", content=text), Message(role="assistant", content=answer)])


def passed() -> ParityResult:
    prompt = ParityPrompt(
        messages=[{"role": "user", "content": "Où | <b>est</b> ?"}],
        source="test",
        ids=[1, 2],
        max_logprob_difference=0.0123,
        top1_equal=True,
        trained_text="ici",
        served_text="ici",
        continuation_equal=True,
        expected="ici",
    )
    return ParityResult(
        passed=True,
        quantization="f16",
        prompts=40,
        top1_agreement=1.0,
        median_max_logprob_difference=0.0113,
        max_logprob_difference=0.026,
        vocabulary=8192,
        rendered_equal=40,
        ids_equal=40,
        tokenizer_texts=208,
        continuations=68,
        continuations_equal=68,
        answers=48,
        trained_score=0.583,
        served_score=0.583,
        thresholds=thresholds_of("f16"),
        runtime="llama.cpp via xllamacpp 1",
        seconds=7.2,
        examples=[prompt],
    )


def test_every_number_format_has_thresholds() -> None:
    for quantization in get_args(Quantization):
        thresholds = thresholds_of(quantization)
        assert 0 < thresholds.median_max_logprob_difference < 10
        assert 0.5 < thresholds.top1_agreement <= 1


def test_the_thresholds_of_the_fine_formats() -> None:
    assert thresholds_of("f16").median_max_logprob_difference == 0.02
    assert thresholds_of("f16").top1_agreement == 0.99
    assert thresholds_of("q8_0").median_max_logprob_difference == 0.5
    assert thresholds_of("q8_0").top1_agreement == 0.95


def test_the_catalogue_has_what_breaks_tokenizers() -> None:
    texts = tokenizer_texts([])
    everything = "".join(texts)

    assert len(texts) == len(set(texts)) > 100
    for rare in ("é", "œ", "😀", "你", "42", "def f(", "\r\n", "\t", "«"):
        assert rare in everything
    assert any(len(entry["turns"]) > 3 for entry in catalogue()["conversations"])


def test_held_out_prompts_end_with_the_question() -> None:
    turns = [Message(role=role, content=text) for role, text in [("user", "a"), ("assistant", "b")] * 2]  # type: ignore[arg-type]
    prompts, compared = held_out_prompts(
        CharacterTokenizer(), [Example(messages=turns)], ExportConfig(), 1000
    )

    assert [turn["role"] for turn in prompts[0].messages] == ["user", "assistant", "user"]
    assert prompts[0].rendered == "<u>a<a>b<u>a<a>"
    assert prompts[0].expected == "b"
    assert compared == 1


def test_at_least_twenty_held_out_prompts_where_there_are_so_many() -> None:
    examples = [question(f"question {index}") for index in range(100)]
    config = ExportConfig(parity_prompts=20, parity_answers=30)
    prompts, compared = held_out_prompts(CharacterTokenizer(), examples, config, 1000)

    assert compared == 20
    assert len(prompts) == 30
    assert prompts == held_out_prompts(CharacterTokenizer(), examples, config, 1000)[0]


def test_without_a_test_set_generated_prompts_fill_the_check() -> None:
    config = ExportConfig(parity_prompts=60)
    prompts = generated_prompts(CharacterTokenizer(), config, 4000, 0)

    assert len(prompts) == 60
    assert any(prompt.messages[0]["role"] == "system" for prompt in prompts)
    assert max(len(prompt.ids) for prompt in prompts) > 1000  # a long one among them


def test_a_template_without_system_prompts_is_asked_without() -> None:
    prompts = generated_prompts(CharacterTokenizer(takes_system=False), ExportConfig(), 4000, 0)

    assert len(prompts) >= 32
    assert all(prompt.messages[0]["role"] == "user" for prompt in prompts)


def test_prompts_leave_room_for_an_answer() -> None:
    prompts = generated_prompts(CharacterTokenizer(), ExportConfig(), 100, 0)

    assert prompts
    assert max(len(prompt.ids) for prompt in prompts) <= 80


def test_the_first_difference_stays_the_first() -> None:
    findings = Findings("en")
    findings.differ("rope_base", served="10000", trained="500000")
    findings.differ("end_token", token="'x' (1)")

    assert findings.first_difference is not None
    assert findings.first_difference.startswith("the rotary base is 10000 in the file and 500000")


def test_both_languages_say_the_same_things() -> None:
    english, french = wordings()["en"], wordings()["fr"]

    assert english.keys() == french.keys()
    assert english["causes"].keys() == french["causes"].keys()


@pytest.mark.parametrize(("one", "other", "position"), [("abc", "abd", 2), ("ab", "abc", 2), ("", "", 0)])
def test_where_two_texts_part(one: str, other: str, position: int) -> None:
    assert first_unlike(one, other) == position


def test_quoted_texts_stay_short_and_in_one_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 500)) < 70
    assert around("abc", 3) == "'abc' (and nothing more)"


def gguf_header(**fields: Any) -> bytes:
    """The head of a GGUF file: strings, floats, unsigned numbers, lists of strings."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value_of(value: Any) -> bytes:
        if isinstance(value, list):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)

    body = b"".join(text(key) + value_of(value) for key, value in fields.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + body


@pytest.mark.parametrize("tokens", [3, 3000])
def test_what_a_file_says_of_itself(tokens: int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    fields: dict[str, Any] = {
        "general.architecture": "qwen3",
        "tokenizer.ggml.tokens": [f"t{index}é" for index in range(tokens)],
        "qwen3.rope.freq_base": 1e6,
        "tokenizer.ggml.eos_token_id": 2,
    }
    path.write_bytes(gguf_header(**fields))

    facts = read_facts(path)

    assert (facts.tokens, facts.rope_base, facts.end_tokens) == (tokens, 1e6, [2])


def test_a_file_without_a_rotary_base_is_served_with_ten_thousand(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_header(**{"general.architecture": "llama"}))

    assert read_facts(path).rope_base == 10_000


def test_a_file_cut_in_its_head_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_header(**{"general.architecture": "llama"})[:-2])

    with pytest.raises(ModelError, match="not a whole GGUF file"):
        read_facts(path)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {
            "rope_parameters": {
                "full_attention": {"rope_theta": 5e5},
                "sliding_attention": {"rope_theta": 1e4},
            }
        },
        {"rope_theta": 5e5},
    ],
)
def test_the_rotary_base_wherever_transformers_keeps_it(config: dict[str, Any]) -> None:
    assert rope_base_of(SimpleNamespace(**config)) == 5e5


def test_a_model_without_rotary_positions() -> None:
    assert rope_base_of(SimpleNamespace()) is None


def test_the_page_of_a_check_that_passed() -> None:
    page = render_parity(passed(), "en")

    assert page.startswith("# Does the served model answer like the trained one? Yes\n")
    assert "| 100.0% of 40 prompts | at least 99.0% |" in page
    assert "0.0113 nats | at most 0.02 |" in page
    assert "58.3% and 58.3%" in page
    assert "<b>" not in page


def test_the_page_in_french_has_french_numbers() -> None:
    page = render_parity(passed(), "fr")

    assert page.startswith("# Le modèle servi répond-il comme le modèle entraîné ? Oui\n")
    assert "0,0113 nats | au plus 0,02 |" in page
    assert "58,3\u202f% et 58,3\u202f%" in page


@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_page_of_a_check_that_failed_begins_with_the_cause(language: Any) -> None:
    findings = Findings(language)
    findings.differ("rope_base", served="10000", trained="500000")
    findings.fail("failed_rope_base", served="10000", trained="500000")
    failed = passed().model_copy(
        update={
            "passed": False,
            "failures": findings.failures,
            "first_difference": findings.first_difference,
            "trained_score": None,
            "served_score": None,
            "answers": 0,
        }
    )

    page = render_parity(failed, language)

    assert page.splitlines()[0].endswith(("No", "Non"))
    assert page.index("500000") < page.index("| ---")
    assert "None" not in page


def test_a_table_row_for_every_line() -> None:
    rows = [line for line in render_parity(passed(), "en").splitlines() if line.startswith("|")]

    assert {row.replace("\\|", "").count("|") for row in rows} <= {4, 7}
