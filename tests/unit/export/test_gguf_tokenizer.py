"""What a tokenizer.json becomes in a GGUF file, recognised by structure, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.errors import ModelError
from finetuneflow.export.gguf.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    model_name,
    tokenizer_fields,
)
from finetuneflow.modeling.locate import embedded_folder

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}| ?", r"|\p{N}{1,3}| ?")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = TEKKEN.replace(r"\p{M}]+|[", r"\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[").replace(
    r"\p{M}]*|\p{N}|", r"\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
PREPEND = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
CONFIG = {"vocab_size": 16}


def cut(regex: str, **more: Any) -> dict[str, Any]:
    """A step that keeps the matches of a regular expression apart."""
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return step | more


def level(*, use_regex: bool = False, **more: Any) -> dict[str, Any]:
    """The step that turns bytes into letters."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    } | more


def metaspace(scheme: str, **more: Any) -> dict[str, Any]:
    """The step that turns spaces into a letter."""
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False} | more


def added(*contents: str, first: int, **more: Any) -> list[dict[str, Any]]:
    """Special tokens with ids from `first` on."""
    return [
        {"id": first + place, "content": content, "special": True, "lstrip": False, "rstrip": False} | more
        for place, content in enumerate(contents)
    ]


def byte_level(folder: Path, *steps: dict[str, Any], ignore_merges: bool = False, **more: Any) -> Path:
    """A model folder with a byte-level tokenizer of four letters, a merge and three special tokens."""
    data = {
        "added_tokens": added("<|endoftext|>", "<|im_start|>", "<|im_end|>", first=5),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)},
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4},
            "merges": [["a", "b"]],
            "ignore_merges": ignore_merges,
        },
    }
    settings = {"eos_token": "<|im_end|>", "pad_token": {"content": "<|endoftext|>"}}
    return write(folder, data | more, settings, CHATML)


def sentencepiece(folder: Path, template: str = INST, **more: Any) -> Path:
    """A model folder with a SentencePiece-style tokenizer."""
    data = {
        "added_tokens": added("<unk>", "<s>", "</s>", first=0),
        "normalizer": PREPEND,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": {
                "<unk>": 0,
                "<s>": 1,
                "</s>": 2,
                "<0x0A>": 3,
                "▁": 4,
                "a": 5,
                "b": 6,
                "ab": 7,
                "▁ab": 8,
                "▁a": 9,
            },
            "merges": [["a", "b"], ["▁", "ab"], ["▁a", "b"], ["▁", "a"]],
            "byte_fallback": True,
            "unk_token": "<unk>",
        },
    }
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return write(folder, data | more, settings, template)


def write(folder: Path, tokenizer: dict[str, Any], settings: dict[str, Any], template: str) -> Path:
    """The files of a tokenizer."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def fields(folder: Path, config: dict[str, Any] = CONFIG, **more: Any) -> dict[str, Any]:
    """Values by the last part of their keys."""
    return {field.key.split(".")[-1]: field.value for field in tokenizer_fields(folder, config, **more)}


@pytest.mark.parametrize(
    ("steps", "whole", "name"),
    [
        ([level(use_regex=True)], False, "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, level(use_regex=True)], False, "smollm"),
        ([cut(LLAMA3), level()], True, "llama-bpe"),
        ([cut(LLAMA3), level()], False, "dbrx"),
        ([cut(QWEN2), level()], False, "qwen2"),
        ([cut(TEKKEN), level()], True, "tekken"),
        ([cut(GPT4O), level()], False, "gpt-4o"),
        ([cut(QWEN2, behavior="Removed", invert=True), level()], False, "qwen2"),
        ([{"type": "Sequence", "pretokenizers": [cut(GPT2), level()]}], False, "gpt-2"),
    ],
)
def test_the_way_of_cutting_is_named_by_structure(
    tmp_path: Path, steps: list[dict[str, Any]], whole: bool, name: str
) -> None:
    assert fields(byte_level(tmp_path, *steps, ignore_merges=whole))["pre"] == name


@pytest.mark.parametrize(
    ("steps", "whole", "named"),
    [
        ([cut(r"\p{Han}+"), level()], False, r"\\p\{Han\}"),
        ([cut(QWEN2), level()], True, "whole words first"),
        ([level(use_regex=True, add_prefix_space=True)], False, "add_prefix_space"),
        ([{"type": "Digits", "individual_digits": False}, level(use_regex=True)], False, "Digits"),
        ([{"type": "Punctuation", "behavior": "Isolated"}, level(use_regex=True)], False, "Punctuation"),
        ([cut(QWEN2, behavior="MergedWithNext"), level()], False, "MergedWithNext"),
    ],
)
def test_an_unknown_way_of_cutting_is_refused_by_name(
    tmp_path: Path, steps: list[dict[str, Any]], whole: bool, named: str
) -> None:
    with pytest.raises(ModelError, match=named) as caught:
        fields(byte_level(tmp_path, *steps, ignore_merges=whole))
    assert caught.value.code == "tokenizer_unsupported"


def test_tokens_are_padded_to_the_rows_of_the_embedding(tmp_path: Path) -> None:
    found = fields(byte_level(tmp_path, level(use_regex=True)), {"vocab_size": 10})
    assert found["tokens"][3:] == [
        "Ġ",
        "ab",
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "[PAD8]",
        "[PAD9]",
    ]
    assert found["token_type"] == [NORMAL] * 5 + [CONTROL] * 3 + [UNUSED] * 2
    assert found["merges"] == ["a b"]


@pytest.mark.parametrize(("rows", "last"), [(4, 4), (7, 7)])
def test_a_vocabulary_or_special_token_beyond_the_rows_is_refused(
    rows: int, last: int, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"id {last}, and the model's embedding has {rows} rows"):
        fields(byte_level(tmp_path, level(use_regex=True)), {"vocab_size": rows})


def test_an_added_token_beyond_the_rows_is_left_out(tmp_path: Path) -> None:
    tokens = added("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image_soft_token>", first=5)
    found = fields(byte_level(tmp_path, level(use_regex=True), added_tokens=tokens), {"vocab_size": 8})
    assert found["tokens"][-1] == "<|im_end|>"
    assert len(found["tokens"]) == len(found["token_type"]) == 8


def test_added_runs_of_spaces_are_normal_tokens_of_sentencepiece_alone(tmp_path: Path) -> None:
    special = added("<unk>", "<s>", "</s>", first=0)
    tokens = [*special, *added("▁", first=4, special=False), *added("<b>", first=10, special=False)]
    assert fields(sentencepiece(tmp_path / "a", added_tokens=tokens))["token_type"][4] == NORMAL
    assert fields(sentencepiece(tmp_path / "a", added_tokens=tokens))["token_type"][10] == USER_DEFINED
    tokens = [*added("<|endoftext|>", "<|im_end|>", first=5), *added("▁▁", first=7, special=False)]
    found = fields(byte_level(tmp_path / "b", level(use_regex=True), added_tokens=tokens))
    assert found["token_type"][7] == USER_DEFINED


def test_added_tokens_that_are_not_special_stay_visible(tmp_path: Path) -> None:
    tokens = [*added("<|endoftext|>", "<|im_end|>", first=5), *added("<tool>", first=7, special=False)]
    found = fields(byte_level(tmp_path, level(use_regex=True), added_tokens=tokens))
    assert found["token_type"][7] == USER_DEFINED


def test_the_token_that_ends_a_turn_is_the_end_of_sequence(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, level(use_regex=True))
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7]}', encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}', encoding="utf-8")
    found = fields(folder)
    assert (found["eos_token_id"], found["eot_token_id"]) == (7, 5)


def test_a_template_that_writes_eos_token_keeps_its_meaning(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, level(use_regex=True))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}', encoding="utf-8")
    template = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    found = fields(folder)
    assert (found["eos_token_id"], found["eot_token_id"]) == (5, 7)


def test_without_any_end_the_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, level(use_regex=True))
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}", encoding="utf-8")
    with pytest.raises(ModelError, match="no token ends an answer"):
        fields(folder)


def test_a_model_without_a_first_token_gets_none_of_llama_cpps_own(tmp_path: Path) -> None:
    found = fields(byte_level(tmp_path, level(use_regex=True)))
    assert found["bos_token_id"] == 7
    assert found["add_bos_token"] is False
    assert found["padding_token_id"] == 5


def test_sentencepiece_has_scores_in_the_order_of_its_merges(tmp_path: Path) -> None:
    found = fields(sentencepiece(tmp_path))
    assert (found["model"], found["pre"]) == ("llama", "default")
    assert found["token_type"][:5] == [UNKNOWN, CONTROL, CONTROL, BYTE, NORMAL]
    score = dict(zip(found["tokens"], found["scores"], strict=True))
    assert score["ab"] > score["▁ab"] > score["▁a"] > score["<s>"]
    assert (found["bos_token_id"], found["eos_token_id"], found["unknown_token_id"]) == (1, 2, 0)
    assert found["add_bos_token"] is True


def test_sentencepiece_without_the_merges_of_its_pieces_is_refused(tmp_path: Path) -> None:
    folder = sentencepiece(tmp_path)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["merges"].remove(["▁a", "b"])
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ModelError, match="1 merges that SentencePiece would do"):
        fields(folder)


def test_a_first_token_that_the_template_does_not_write_is_not_added(tmp_path: Path) -> None:
    found = fields(sentencepiece(tmp_path, INST.replace("{{ bos_token }}", "")))
    assert found["add_bos_token"] is False
    assert found["bos_token_id"] == 1


@pytest.mark.parametrize(
    ("structure", "template", "prefix"),
    [
        ({}, INST, True),
        ({"normalizer": None, "pre_tokenizer": metaspace("first")}, INST, False),
        ({"normalizer": None, "pre_tokenizer": metaspace("always")}, INST, True),
        ({"normalizer": None, "pre_tokenizer": metaspace("never")}, INST, False),
        ({"normalizer": None, "pre_tokenizer": metaspace("first")}, "### {{ messages[0].content }}", True),
        (
            {
                "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"String": " "},
                    "behavior": "MergedWithPrevious",
                    "invert": False,
                },
            },
            INST,
            False,
        ),
    ],
)
def test_a_space_is_put_before_texts_where_training_had_one(
    tmp_path: Path, structure: dict[str, Any], template: str, prefix: bool
) -> None:
    assert fields(sentencepiece(tmp_path, template, **structure))["add_space_prefix"] is prefix


def test_a_space_before_the_first_text_only_is_written_by_the_template(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
    first = {"normalizer": None, "pre_tokenizer": metaspace("first")}
    found = fields(sentencepiece(tmp_path, template, **first))
    assert found["add_space_prefix"] is False
    assert found["chat_template"] == "{{ ' ' }}" + template


@pytest.mark.parametrize(
    ("structure", "named"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"normalizer": None, "pre_tokenizer": metaspace("first", split=True)}, "Metaspace"),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "neither byte-level"),
        ({"added_tokens": added("<unk>", "<s>", "</s>", first=0, lstrip=True)}, "strips or bounds"),
    ],
)
def test_another_structure_is_refused_by_name(tmp_path: Path, structure: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        fields(sentencepiece(tmp_path, **structure))


def test_a_rewriting_byte_level_tokenizer_is_refused(tmp_path: Path) -> None:
    composed = byte_level(tmp_path / "nfc", level(use_regex=True), normalizer={"type": "NFC"})
    assert fields(composed)["pre"] == "gpt-2"
    lower = byte_level(tmp_path / "lower", level(use_regex=True), normalizer={"type": "Lowercase"})
    with pytest.raises(ModelError, match="Lowercase"):
        fields(lower)


def test_the_tokenizer_saved_with_an_adapter_is_the_one_that_was_trained(tmp_path: Path) -> None:
    base = byte_level(tmp_path / "base", {"type": "Digits", "individual_digits": True}, level(use_regex=True))
    (base / "generation_config.json").write_text('{"eos_token_id": [7, 5]}', encoding="utf-8")
    tuned = byte_level(tmp_path / "adapter", level(use_regex=True))
    assert fields(base)["pre"] == "smollm"
    found = fields(base, tuned=tuned)
    assert found["pre"] == "gpt-2"
    assert found["eot_token_id"] == 5
    assert fields(base, tuned=tmp_path)["pre"] == "smollm"


def test_the_name_says_phi3_where_special_tokens_eat_white_space(tmp_path: Path) -> None:
    plain = sentencepiece(tmp_path / "plain")
    eating = sentencepiece(
        tmp_path / "eating", added_tokens=added("<unk>", "<s>", "</s>", first=0, rstrip=True)
    )
    assert model_name(plain, "mine") == "mine"
    assert model_name(plain, "no-Phi-3-nor-phi3") == "no-phi 3-nor-phi 3"
    assert model_name(eating, "phi3-mini") == "phi3-mini"
    assert model_name(eating, "mine") == "mine (phi-3)"
    assert model_name(eating, "Phi-3-mini") == "Phi-3-mini"


def test_a_model_without_a_template_gets_the_one_that_training_used(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, level(use_regex=True))
    (folder / "chat_template.jinja").unlink()
    assert "### Question" in fields(folder)["chat_template"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "chat_template": [{"name": "default", "template": CHATML}]}),
        encoding="utf-8",
    )
    assert fields(folder)["chat_template"] == CHATML


def test_the_plain_template_writes_the_first_token_where_the_tokenizer_does(tmp_path: Path) -> None:
    first = {"normalizer": None, "pre_tokenizer": metaspace("first")}
    adding, bare = (
        sentencepiece(tmp_path / "adding", **first),
        byte_level(tmp_path / "bare", level(use_regex=True)),
    )
    for folder in (adding, bare):
        (folder / "chat_template.jinja").unlink()
    found = fields(adding)
    assert found["chat_template"].startswith("{{ bos_token }}")
    assert (found["add_bos_token"], found["add_space_prefix"]) == (True, False)
    assert "bos_token" not in fields(bare)["chat_template"]


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, level(use_regex=True))
    hostile = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    (folder / "chat_template.jinja").write_text(hostile, encoding="utf-8")
    with pytest.raises(ModelError, match="chat template fails"):
        fields(folder)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        fields(tmp_path)


def test_the_embedded_model_is_known() -> None:
    folder = embedded_folder("embedded:tiny")
    found = fields(folder, {"vocab_size": 8192, "eos_token_id": 2})
    assert (found["model"], found["pre"]) == ("gpt2", "smollm")
    assert (found["eos_token_id"], found["eot_token_id"]) == (2, 0)
    assert len(found["tokens"]) == 8192
