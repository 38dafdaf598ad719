"""How a tokenizer cuts a text, recognised by the structure of tokenizer.json, in llama.cpp's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from finetuneflow.export.gguf.tokenizer_files import Stored, added_pattern, conversation, refusal

SPACE = "▁"
"""How SentencePiece writes a space."""
KEPT_BY_PHI3 = {"<unk>", "<s>", "<|endoftext|>"}
"""Where any special token strips the text after it, llama.cpp lets all strip but these."""


def is_byte_level(stored: Stored) -> bool:
    """Whether it is byte-level BPE; False for SentencePiece-style BPE.

    Raises:
        ModelError: neither of the two.
    """
    model = stored.model
    if model.get("type", "BPE") != "BPE":
        raise refusal(f"a tokenizer of type `{model['type']}` cannot be written as GGUF")
    for token in stored.added:
        if token.get("lstrip") or token.get("single_word"):
            raise refusal(f"the token `{token['content']}` strips or bounds words, which llama.cpp cannot do")
    eating = [token["content"] for token in stored.added if token.get("rstrip")]
    if eating and (kept := _keeping(stored) - KEPT_BY_PHI3):
        raise refusal(f"`{eating[0]}` strips the text after it and `{min(kept)}` does not: llama.cpp cannot")
    if any(step.get("type") == "ByteLevel" for step in _flat(stored.tokenizer.get("pre_tokenizer"))):
        return True
    if model.get("byte_fallback"):
        return False
    raise refusal("the tokenizer is neither byte-level BPE nor SentencePiece with byte fallback")


def _keeping(stored: Stored) -> set[str]:
    return {token["content"] for token in stored.added if not token.get("rstrip")}


def _flat(step: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if not step:
        return []
    if step["type"] != "Sequence":
        return [step]
    parts: Iterable[Mapping[str, Any]] = step.get("pretokenizers") or step.get("normalizers") or ()
    return [one for part in parts for one in _flat(part)]


@cache
def _pre_tokenizers() -> tuple[list[dict[str, Any]], str]:
    text = (resources.files("finetuneflow.assets") / "pre_tokenizers.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    return data["pre_tokenizers"], data["regexes"]["gpt2"]


def pre_tokenizer_name(stored: Stored) -> str:
    """llama.cpp's name of a byte-level tokenizer's way of cutting a text, found by its structure.

    Raises:
        ModelError: a structure without a name, quoted.
    """
    known, gpt2 = _pre_tokenizers()
    steps: list[str] = []
    for step in _flat(stored.tokenizer.get("pre_tokenizer")):
        steps += _step(step, gpt2)
    whole = bool(stored.model.get("ignore_merges"))
    for row in known:
        if row["steps"] == steps and bool(row.get("ignore_merges")) == whole:
            return str(row["name"])
    shown = ", ".join(f"`{step}`" for step in steps) + (", whole words first" if whole else "")
    raise refusal(f"llama.cpp has no name for this tokenizer's way of cutting a text: {shown}")


def _step(step: Mapping[str, Any], gpt2: str) -> list[str]:
    kind = step["type"]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return [gpt2] if step.get("use_regex", True) else []
    if kind == "Digits" and step.get("individual_digits"):
        return ["digits"]
    isolated = (step.get("behavior"), step.get("invert")) in (("Isolated", False), ("Removed", True))
    if kind == "Split" and isolated and "Regex" in step["pattern"]:
        return [str(step["pattern"]["Regex"])]
    return [f"{kind} {dict(step)}"]


def refuse_rewriting(stored: Stored) -> None:
    """Refuses a byte-level tokenizer that changes a text otherwise than by composing its letters.

    Raises:
        ModelError: naming the step.
    """
    kinds = {step["type"] for step in _flat(stored.tokenizer.get("normalizer"))} - {"NFC"}
    if kinds:
        names = ", ".join(sorted(kinds))
        raise refusal(f"the tokenizer rewrites texts ({names}), which llama.cpp cannot do")


def _prefix_scheme(stored: Stored) -> str:
    """When a space is put before a text: normalizer, always, first or never."""
    normalizers = _flat(stored.tokenizer.get("normalizer"))
    cuts = _flat(stored.tokenizer.get("pre_tokenizer"))
    replaces = [step["type"] for step in normalizers if step["type"] != "Replace" or _is_space(step)]
    no_cut = not cuts or (
        len(cuts) == 1 and cuts[0]["type"] == "Split" and cuts[0]["pattern"] == {"String": " "}
    )
    if replaces == ["Prepend", "Replace"] and normalizers[0].get("prepend") == SPACE and no_cut:
        return "normalizer"
    if replaces == ["Replace"] and no_cut:
        return "never"
    if not normalizers and len(cuts) == 1 and cuts[0]["type"] == "Metaspace":
        cut = cuts[0]
        if cut.get("replacement") == SPACE and cut.get("split") is False:
            return str(cut.get("prepend_scheme", "always"))
    shown = ", ".join(step["type"] for step in (*normalizers, *cuts)) or "nothing"
    raise refusal(f"llama.cpp has no equivalent of this SentencePiece-style tokenizer: {shown}")


def _is_space(step: Mapping[str, Any]) -> bool:
    return step.get("pattern") == {"String": " "} and step.get("content") == SPACE


def adds_space_prefix(stored: Stored) -> bool:
    """Whether llama.cpp must put a space before each text between special tokens.

    transformers may do so always, at the very beginning only, or not where there is a space already;
    llama.cpp always or never. The chat template decides whether one of the two is the same.

    Raises:
        ModelError: neither is.
    """
    if writes_space_first(stored):
        return False
    scheme = _prefix_scheme(stored)
    if scheme in ("normalizer", "never"):
        return scheme == "normalizer"
    wanted = {
        (scheme == "always" or start == 0) and not text.startswith(" ")
        for start, text in _texts_between(stored)
    }
    if len(wanted) > 1:
        raise refusal("this tokenizer puts a space before some texts of a chat only, which llama.cpp cannot")
    return wanted.pop() if wanted else False


def writes_space_first(stored: Stored) -> bool:
    """Whether the template must write the space that transformers puts before the first text only."""
    if _prefix_scheme(stored) != "first":
        return False
    texts = _texts_between(stored)
    return len(texts) > 1 and texts[0][0] == 0 and not texts[0][1].startswith(" ")


def _texts_between(stored: Stored) -> list[tuple[int, str]]:
    """Texts between the special tokens of a conversation, each with its place."""
    rendered, _ = conversation(stored)
    found, place = [], 0
    for match in added_pattern(stored.added).finditer(rendered):
        found.append((place, rendered[place : match.start()]))
        place = match.end()
    return [(start, text) for start, text in [*found, (place, rendered[place:])] if text]
