"""Every architecture, written as GGUF, answers in llama.cpp what transformers computes in fp32."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import statistics
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from finetuneflow.export.gguf.architectures_config import families, setting
from finetuneflow.export.gguf.file import write_gguf
from finetuneflow.export.gguf.tokenizer import tokenizer_fields
from finetuneflow.export.merge import save_tokenizer
from finetuneflow.modeling.llama_cpp import Llama, open_llama
from finetuneflow.modeling.locate import embedded_folder
from finetuneflow.modeling.tokenize import encode_prompt
from finetuneflow.schemas.export import Quantization

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ARCHITECTURES = [
    "llama",
    "llama_linear",
    "llama3",
    "mistral",
    "mistral_nemo",
    "smollm",
    "qwen2",
    "qwen2_yarn",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "phi3_longrope",
    "phi4_mini",
]
ONE_PER_TOKENIZER = {
    "llama",
    "llama3",
    "mistral",
    "mistral_nemo",
    "smollm",
    "qwen2",
    "gemma2",
    "phi3",
    "phi4_mini",
}
CASES: list[tuple[str, Quantization]] = [(name, kind) for name in ARCHITECTURES for kind in ("f16", "q8_0")]
CAPITALS_APART = {"mistral_nemo", "phi4_mini"}
MEDIAN = {"f16": 0.02, "q8_0": 0.5}
LENGTHS = [3, 8, 15, 16, 17, 30, 33, 45, 60] * 3
"""Tokens; the windows of the small models are 16."""
STRINGS = 700
CONTEXT = 256
WORDS = (
    "La réponse est dans le catalogue : été, hiver, forêt, cœur, naïf, Noël, garçon. « C'est l'été »\n"
    "The answer's in the handbook; DON'T SHOUT, they've 1234567 items, 3.14159 at 42 % and 99,95 €\n"
    "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n\tprint(add(i, 1))  # done\n"
    "你好，世界。今天天气很好 日本語のテキスト。 Привет, как дела? Γειά مرحبا हिन्दी\n"
    '🙂 🚀🚀 👍🏽 🇫🇷 👩‍👩‍👧 https://example.org/a?b=c&d=1 user@example.org {"key": [1, 2]} <b>x²½</b>'
).split(" ")
GAPS = ["", " ", " ", "  ", "\n", "    ", "\n\n", "\t", " \n ", "\r\n"]
MESSAGES = [
    {"role": "user", "content": "La réponse est 42 ?"},
    {"role": "assistant", "content": "Oui, été."},
    {"role": "user", "content": "你好 🙂  def f(x):\n    return x"},
]


@dataclass(frozen=True)
class Served:
    """Both sides of one model."""

    architecture: str
    quantization: Quantization
    llama: Llama
    model: Any
    tokenizer: Any


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def served(
    request: pytest.FixtureRequest,
    small_model: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """A model written as GGUF and opened by llama.cpp, beside its original in fp32."""
    architecture, quantization = request.param
    folder = small_model(architecture)
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, folder, quantization=quantization, name=f"{architecture} small")
    # Eager: the only attention that knows Gemma 2's soft capping.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with open_llama(path, context_tokens=CONTEXT, threads=1) as llama:
        yield Served(architecture, quantization, llama, model.eval(), AutoTokenizer.from_pretrained(folder))


def strings(tokenizer: Any) -> list[str]:
    """Texts of words, special tokens, white space and random letters, composed as llama.cpp expects them."""
    chance = random.Random(7)  # noqa: S311
    specials = tokenizer.all_special_tokens

    def piece() -> str:
        kind = chance.random()
        if kind < 0.75:
            return chance.choice(WORDS)
        if kind < 0.85:
            return str(chance.choice(specials))
        ranges = [(32, 126), (0xC0, 0x17F), (0x4E00, 0x4FFF), (0x1F600, 0x1F640)]
        return "".join(chr(chance.randint(*chance.choice(ranges))) for _ in range(3))

    found = [
        "".join(piece() + chance.choice(GAPS) for _ in range(chance.randint(1, 12))) for _ in range(STRINGS)
    ]
    return [unicodedata.normalize("NFC", text) for text in found]


def capital_inside(text: str) -> bool:
    """Whether a capital letter beyond ASCII follows a letter: llama.cpp then cuts otherwise."""
    return any(
        before.isalpha() and letter.isupper() and not letter.isascii()
        for before, letter in itertools.pairwise(text)
    )


def trained_log_probabilities(model: Any, ids: list[int]) -> np.ndarray:
    """Of the next token, by id."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    scored: np.ndarray = torch.log_softmax(logits, dim=-1).numpy()
    return scored


def test_the_next_token_is_as_likely_as_in_transformers(served: Served) -> None:
    chance = random.Random(3)  # noqa: S311
    differences, best = [], []
    for length in LENGTHS:
        known = min(len(served.tokenizer), served.model.config.vocab_size)
        ids = [chance.randrange(3, known) for _ in range(length)]
        trained = trained_log_probabilities(served.model, ids)
        answered = served.llama.log_probabilities(ids)
        assert answered.shape == trained.shape
        differences.append(float(np.abs(answered - trained).max()))
        best.append(float(trained.max() - trained[answered.argmax()]))
    assert statistics.median(differences) <= MEDIAN[served.quantization]
    # Random models have near ties: what counts is that the token chosen is as good as the best one.
    assert max(best) <= MEDIAN[served.quantization]
    assert served.quantization != "f16" or max(best) <= 0.01


def test_texts_become_the_same_tokens(served: Served) -> None:
    if served.quantization != "f16" or served.architecture not in ONE_PER_TOKENIZER:
        pytest.skip("each tokenizer once")
    tokenizer = served.tokenizer
    first = tokenizer.bos_token or tokenizer.eos_token
    texts = strings(tokenizer)
    if served.architecture in CAPITALS_APART:
        texts = [text for text in texts if not capital_inside(text)]
    assert len(texts) >= 500
    different = {
        text: (trained, answered)
        for text in texts
        if (trained := tokenizer(first + text, add_special_tokens=False)["input_ids"])
        != (answered := served.llama.tokenize(first + text))
    }
    assert different == {}


def test_tokens_become_the_same_text(served: Served) -> None:
    if served.quantization != "f16" or served.architecture not in ONE_PER_TOKENIZER:
        pytest.skip("each tokenizer once")
    tokenizer = served.tokenizer
    first = tokenizer.bos_token or tokenizer.eos_token
    for text in ["a  b", "a    b   c", "def f():\n    return  1"]:
        ids = tokenizer(first + text, add_special_tokens=False)["input_ids"]
        written = served.llama._post("/detokenize", {"tokens": ids[1:]}).json()["content"]
        assert written.strip() == text


def test_a_conversation_becomes_the_same_tokens(served: Served) -> None:
    rendered = served.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    trained = served.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert served.llama.tokenize(served.llama.render(MESSAGES), add_special=True) == trained


def test_the_answer_ends_with_the_token_that_ends_a_turn(served: Served) -> None:
    text = served.tokenizer.apply_chat_template(
        [*MESSAGES, {"role": "assistant", "content": "Zr"}], tokenize=False
    )
    tail = served.tokenizer(text[text.rfind("Zr") + 2 :].lstrip(), add_special_tokens=False)["input_ids"]
    assert served.llama.ends_answer(tail[0])
    assert served.llama.ends_answer(served.tokenizer.eos_token_id)
    assert not served.llama.ends_answer(served.tokenizer("x", add_special_tokens=False)["input_ids"][-1])


@pytest.mark.parametrize("architecture", ["llama", "smollm", "qwen2", "gemma2", "mistral", "phi3"])
@pytest.mark.parametrize("settings", [{}, {"legacy": True}, {"tokenizer_class": "GPT2Tokenizer"}])
def test_a_tokenizer_is_read_as_transformers_reads_it(
    architecture: str, settings: dict[str, Any], published_tokenizer: Callable[..., Path], tmp_path: Path
) -> None:
    folder = published_tokenizer(architecture)
    path = folder / "tokenizer_config.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    if ("tokenizer_class" in settings) != (stored["tokenizer_class"] == "PreTrainedTokenizerFast"):
        settings = {}
    path.write_text(json.dumps(stored | settings), encoding="utf-8")
    config = {"vocab_size": 512}
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    published, saved = (
        {field.key: field.value for field in tokenizer_fields(folder, config, tuned=tuned)}
        for tuned in (None, tmp_path)
    )
    saved.pop("tokenizer.ggml.unknown_token_id", None)  # a name that some classes invent
    assert saved == {key: value for key, value in published.items() if key in saved}
    assert len(published) - len(saved) in (0, 1)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "llama3", "smollm"])
def test_a_base_without_a_template_is_served_as_it_is_trained(
    architecture: str, small_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(small_model(architecture), folder)
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = encode_prompt(tokenizer, MESSAGES)
    assert (ids[0] == tokenizer.bos_token_id) is (architecture != "smollm")
    write_gguf(tmp_path / "model.gguf", folder, name="base")
    with open_llama(tmp_path / "model.gguf", context_tokens=CONTEXT, threads=1) as llama:
        assert llama.tokenize(llama.render(MESSAGES), add_special=True) == ids
        assert llama.chat(MESSAGES, max_new_tokens=1).prompt_tokens == len(ids)
    save_tokenizer(tokenizer, tmp_path, chat=True)
    assert encode_prompt(AutoTokenizer.from_pretrained(tmp_path), MESSAGES) == ids


@pytest.mark.parametrize("model_type", sorted(families()))
def test_what_a_silent_config_means_is_what_transformers_assumes(model_type: str) -> None:
    family = families()[model_type]
    assumed = AutoConfig.for_model(model_type).to_dict()
    rope = assumed["rope_parameters"] or {}
    full, local = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    assumed |= {"rope_theta": full.get("rope_theta"), "rope_local_base_freq": local.get("rope_theta")}
    assumed.setdefault("hidden_act", assumed.get("hidden_activation"))
    if family.defaults.get("use_sliding_window") is False:
        assumed["sliding_window"] = family.defaults["sliding_window"]
    known = {key: setting(family, {}, key) for key in family.defaults if assumed.get(key) is not None}
    assert known == {key: assumed[key] for key in known}
    assert {"max_position_embeddings", "rms_norm_eps", "hidden_act", "tie_word_embeddings"} <= set(known)


def test_the_embedded_model_reads_texts_alike(tmp_path: Path) -> None:
    folder = embedded_folder("embedded:tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    write_gguf(tmp_path / "model.gguf", folder, quantization="q8_0", name="tiny")
    with open_llama(tmp_path / "model.gguf", context_tokens=CONTEXT, threads=1) as llama:
        rendered = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        assert llama.render(MESSAGES) == rendered
        for text in strings(tokenizer):
            assert llama.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
