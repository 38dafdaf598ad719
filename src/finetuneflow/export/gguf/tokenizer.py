"""A tokenizer as llama.cpp reads it: from tokenizer.json, without tokenizers or transformers.

Two kinds exist there: byte-level BPE (`gpt2`, with the name of its pre-tokenizer, found by structure) and
SentencePiece-style BPE (`llama`, where scores take the place of merges).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from finetuneflow.export.gguf.architectures_config import Config, Field
from finetuneflow.export.gguf.tokenizer_files import Stored, added_pattern, conversation, read_stored, refusal
from finetuneflow.export.gguf.tokenizer_structure import (
    SPACE,
    adds_space_prefix,
    is_byte_level,
    pre_tokenizer_name,
    refuse_rewriting,
    writes_space_first,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of tokens, as in `gguf.TokenType`."""
UNREACHABLE = -1e9
MISSING_SPLITS = 0.01
"""Share of a vocabulary's possible merges that may be absent before scores cannot stand for merges."""
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
FIRST_SPACE = "{{ ' ' }}"
STRIPPING_FAMILY = "phi-3"
STRIPPING_NAME = re.compile("phi-?3", re.IGNORECASE)
"""llama.cpp strips after special tokens where the model's name contains this."""


def tokenizer_fields(folder: Path, config: Config, *, tuned: Path | None = None) -> list[Field]:
    """Tokens, their types, merges or scores, special ids and chat template, as a GGUF file has them.

    Tokens are padded to the rows of the embedding as unused ones; added tokens beyond the rows, which no text
    can have been trained with, are left out.

    Args:
        folder: The model.
        config: Its config.json.
        tuned: Folder of an adapter. The tokenizer saved with it is the one that training used: transformers
            may read another one out of a published tokenizer.json than what stands in it.

    Raises:
        ModelError: a structure that llama.cpp does not have (code `tokenizer_unsupported`), or a vocabulary
            or special token beyond the rows of the embedding.
    """
    stored = read_stored(folder, tuned)
    byte_level = is_byte_level(stored)
    fields = [Field("model", "gpt2" if byte_level else "llama", "STRING")]
    fields += _byte_level_fields(stored) if byte_level else _sentencepiece_fields(stored)
    tokens, types = _tokens(stored, int(config["vocab_size"]))
    fields += [Field("tokens", tokens, "ARRAY:STRING"), Field("token_type", types, "ARRAY:INT32")]
    if not byte_level:
        fields.append(Field("scores", _scores(stored, tokens), "ARRAY:FLOAT32"))
    fields += _special_fields(stored, config)
    named = [Field(f"tokenizer.ggml.{key}", value, kind) for key, value, kind in fields]
    lead = "" if byte_level or not writes_space_first(stored) else FIRST_SPACE
    return [*named, Field("tokenizer.chat_template", lead + stored.template, "STRING")]


def model_name(folder: Path, name: str, *, tuned: Path | None = None) -> str:
    """The name for the file: llama.cpp reads from it whether special tokens eat white space (Phi-3's do)."""
    strips = any(token.get("rstrip") for token in read_stored(folder, tuned).added)
    if strips:
        return name if STRIPPING_NAME.search(name) else f"{name} ({STRIPPING_FAMILY})"
    return STRIPPING_NAME.sub("phi 3", name)


def _byte_level_fields(stored: Stored) -> list[Field]:
    refuse_rewriting(stored)
    merges = [" ".join(pair) for pair in stored.merges()]
    return [
        Field("pre", pre_tokenizer_name(stored), "STRING"),
        Field("merges", merges, "ARRAY:STRING"),
    ]


def _sentencepiece_fields(stored: Stored) -> list[Field]:
    return [
        Field("pre", "default", "STRING"),
        Field("add_space_prefix", adds_space_prefix(stored), "BOOL"),
        Field("remove_extra_whitespaces", False, "BOOL"),
    ]


def _tokens(stored: Stored, rows: int) -> tuple[list[str], list[int]]:
    ids = stored.ids()
    _refuse_beyond(rows, stored.model["vocab"].values())
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [UNUSED] * rows
    byte_tokens = not is_byte_level(stored)
    for token, row in stored.model["vocab"].items():
        tokens[row] = token
        types[row] = BYTE if byte_tokens and BYTE_TOKEN.fullmatch(token) else NORMAL
    for added in stored.added:
        if added["id"] < rows:
            tokens[added["id"]] = added["content"]
            # Runs of spaces (Gemma): llama.cpp unescapes the text of normal tokens only.
            plain = NORMAL if byte_tokens and SPACE in added["content"] else USER_DEFINED
            types[added["id"]] = CONTROL if added.get("special") else plain
    unknown = stored.model.get("unk_token") or stored.special("unk")
    if byte_tokens and unknown in ids:
        types[ids[unknown]] = UNKNOWN
    return tokens, types


def _refuse_beyond(rows: int, ids: Iterable[int]) -> None:
    last = max(ids, default=-1)
    if last >= rows:
        raise refusal(
            f"the tokenizer has tokens up to id {last}, and the model's embedding has {rows} rows",
            "resize the model's embedding to its tokenizer, and train again",
        )


def _scores(stored: Stored, tokens: list[str]) -> list[float]:
    """Scores that make llama.cpp merge in the order of the merges: the higher the sooner."""
    pairs = stored.merges()
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault("".join(pair), rank)
    _check_splits(set(pairs), ranks, stored.model["vocab"])
    return [-float(ranks[token]) if token in ranks else UNREACHABLE for token in tokens]


def _check_splits(
    pairs: set[tuple[str, ...]], ranks: Mapping[str, int], vocabulary: Mapping[str, int]
) -> None:
    missing = sum(
        (token[:cut], token[cut:]) not in pairs
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    )
    if missing > MISSING_SPLITS * len(pairs):
        raise refusal(
            f"{missing} merges that SentencePiece would do are not in this tokenizer: llama.cpp would do them"
        )


def _special_fields(stored: Stored, config: Config) -> list[Field]:
    ids = stored.ids()
    known = {role: ids[text] for role in ("bos", "pad", "unk") if (text := stored.special(role)) in ids}
    ends = end_ids(stored, config)
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    fields = [Field(key, token, "UINT32") for key, token in zip(keys, ends, strict=False)]
    # Without these keys llama.cpp assumes ids of its own.
    known.setdefault("bos", ends[0])
    _refuse_beyond(int(config["vocab_size"]), [*ends, *known.values()])
    names = {"bos": "bos", "pad": "padding", "unk": "unknown"}
    fields += [Field(f"{names[role]}_token_id", token, "UINT32") for role, token in known.items()]
    return [
        *fields,
        Field("add_bos_token", _adds_bos(stored), "BOOL"),
        Field("add_eos_token", False, "BOOL"),
    ]


def end_ids(stored: Stored, config: Config) -> list[int]:
    """Ids that end an answer; first the one that llama.cpp shall call end of sequence.

    That is the token which ends an assistant's turn, unless the template itself writes `eos_token`: then
    the name must keep its meaning, and the end of a turn comes second.

    Raises:
        ModelError: no token ends an answer.
    """
    ids = stored.ids()
    specials = [token for token in stored.added if token.get("special")]
    found = added_pattern(specials).search(conversation(stored)[1])
    turn = [ids[found.group().rstrip()]] if found else []
    named = [ids[text]] if (text := stored.special("eos")) in ids else []
    listed: list[int] = []
    for source in (stored.generation, config):
        value = source.get("eos_token_id")
        listed += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    ordered = named + turn if "eos_token" in stored.template else turn + named
    ends = list(dict.fromkeys([*ordered, *listed]))
    if not ends:
        raise refusal(
            "no token ends an answer: neither the tokenizer nor the chat template names one",
            "set `eos_token` in tokenizer_config.json, and end the assistant's turn with it",
        )
    return ends


def _adds_bos(stored: Stored) -> bool:
    """Whether llama.cpp puts the first token before a bare text: where tokenizer and template both do.

    A template that does not write it was trained without it.
    """
    text = stored.special("bos")
    return text is not None and conversation(stored)[0].startswith(text) and stored.begins_texts
