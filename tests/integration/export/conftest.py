"""Small random models of each architecture, with tokenizers of the structure that each family really has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "La réponse à la question est dans le catalogue : été, hiver, forêt, cœur, naïf, Noël, garçon.",
    "L'élève a bien travaillé aujourd'hui ; « c'est l'été », dit-il, où vas-tu ?",
    "The answer to the question is in the handbook, and the service is open every day of the year.",
    "It's what they've said: we'll do it, I'd rather not, and you're right. DON'T SHOUT, she'd say.",
    "In 2026 there were 1234567 items, 3.14159 of them at 42 % and 100 000 at 99,95 €.",
    "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n\tprint(add(i, 1))  # done\n",
    "你好，世界。今天天气很好，我们去公园吧。答案是四十二。",
    "日本語のテキスト。こんにちは、元気ですか。 Привет, как дела? Γειά σου Κόσμε.",
    "🙂 great 🚀🚀 done 👍🏽 été 🇫🇷 naïve 👩‍👩‍👧 fin",
    'https://example.org/a?b=c&d=1 user@example.org [x](y) {"key": [1, 2, 3]} <b>bold</b>',
]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0],
    "original_max_position_embeddings": 256,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 128}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tokenizer": "llama2"},
    "llama_linear": {
        "model_type": "llama",
        "tokenizer": "llama2",
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.0},
    },
    "llama3": {"model_type": "llama", "tokenizer": "llama3", "rope_parameters": LLAMA3_ROPE},
    "mistral": {"model_type": "mistral", "tokenizer": "mistral", "sliding_window": None, "head_dim": 32},
    "mistral_nemo": {
        "model_type": "mistral",
        "tokenizer": "tekken",
        "sliding_window": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "smollm": {
        "model_type": "llama",
        "tokenizer": "smollm",
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    },
    "qwen2": {
        "model_type": "qwen2",
        "tokenizer": "qwen2",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "qwen2_yarn": {"model_type": "qwen2", "tokenizer": "qwen2", "rope_parameters": YARN},
    "qwen3": {
        "model_type": "qwen3",
        "tokenizer": "qwen2",
        "tie_word_embeddings": True,
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "gemma2": {
        "model_type": "gemma2",
        "tokenizer": "gemma",
        "num_hidden_layers": 4,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 8.0,
        **GEMMA,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "tokenizer": "gemma3",
        "num_hidden_layers": 7,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        **GEMMA,
    },
    "phi3": {"model_type": "phi3", "tokenizer": "phi3"},
    "phi3_longrope": {
        "model_type": "phi3",
        "tokenizer": "phi3",
        "rope_parameters": LONGROPE,
        "original_max_position_embeddings": 256,
    },
    "phi4_mini": {
        "model_type": "phi3",
        "tokenizer": "gpt4o",
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
    },
}
ROWS = 64
"""Embeddings have a multiple of this many rows."""
REGEXES = yaml.safe_load(
    (Path(__file__).parents[3] / "src/finetuneflow/assets/pre_tokenizers.yaml").read_text(encoding="utf-8")
)["regexes"]
"""Their spelling is checked against published tokenizers in the unit tests."""


def chatml(system: str = "") -> str:
    """The template of Qwen and SmolLM, with a system turn of its own when one is given."""
    default = (
        "{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\n" + system + "<|im_end|>\n' }}{% endif %}"
        if system
        else ""
    )
    return (
        "{% for message in messages %}" + default + "{{ '<|im_start|>' + message['role'] + '\n'"
        " + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
TEKKEN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ '[INST]' + message['content'] + '[/INST]' }}{% endif %}{% endfor %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SPACE = "▁"
SENTENCEPIECE_LEGACY = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        ],
    },
    "pre_tokenizer": None,
}
SENTENCEPIECE_FIRST = {
    "normalizer": None,
    "pre_tokenizer": {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "first",
        "split": False,
    },
}
SENTENCEPIECE_BARE = {
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    "pre_tokenizer": {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    },
}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "llama2": {
        "kind": "sentencepiece",
        "first": ["<unk>", "<s>", "</s>"],
        "structure": SENTENCEPIECE_LEGACY,
        "bos": "<s>",
        "eos": "</s>",
        "unk": "<unk>",
        "class": "LlamaTokenizer",
        "template": LLAMA2_TEMPLATE,
    },
    "mistral": {
        "kind": "sentencepiece",
        "first": ["<unk>", "<s>", "</s>"],
        "structure": SENTENCEPIECE_FIRST,
        "bos": "<s>",
        "eos": "</s>",
        "unk": "<unk>",
        "class": "LlamaTokenizer",
        "settings": {"legacy": False},
        "template": MISTRAL_TEMPLATE,
    },
    "phi3": {
        "kind": "sentencepiece",
        "first": ["<unk>", "<s>", "</s>"],
        "structure": SENTENCEPIECE_LEGACY,
        "last": ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
        "stripping": ["</s>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
        "bos": "<s>",
        "eos": "<|endoftext|>",
        "unk": "<unk>",
        "class": "LlamaTokenizer",
        "settings": {"legacy": False},
        "template": PHI3_TEMPLATE,
        "no_bos": True,
    },
    "gemma": {
        "kind": "sentencepiece",
        "first": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
        "structure": SENTENCEPIECE_BARE,
        "last": ["<start_of_turn>", "<end_of_turn>"],
        "bos": "<bos>",
        "eos": "<eos>",
        "unk": "<unk>",
        "pad": "<pad>",
        "class": "GemmaTokenizer",
        "template": GEMMA_TEMPLATE,
        "runs": [SPACE * 2, SPACE * 4],
    },
    "llama3": {
        "kind": "byte_level",
        "cuts": [{"regex": "llama3"}],
        "ignore_merges": True,
        "last": [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ],
        "bos": "<|begin_of_text|>",
        "eos": "<|eot_id|>",
        "class": "PreTrainedTokenizerFast",
        "template": LLAMA3_TEMPLATE,
    },
    "tekken": {
        "kind": "byte_level",
        "cuts": [{"regex": "tekken"}],
        "ignore_merges": True,
        "first": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        "bos": "<s>",
        "eos": "</s>",
        "unk": "<unk>",
        "class": "PreTrainedTokenizerFast",
        "template": TEKKEN_TEMPLATE,
    },
    "gpt4o": {
        "kind": "byte_level",
        "cuts": [{"regex": "gpt4o"}],
        "last": ["<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>"],
        "bos": "<|endoftext|>",
        "eos": "<|endoftext|>",
        "unk": "<|endoftext|>",
        "pad": "<|endoftext|>",
        "class": "PreTrainedTokenizerFast",
        "no_bos": True,
        "template": (
            "{% for message in messages %}"
            "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
        ),
    },
    "smollm": {
        "kind": "byte_level",
        "cuts": ["digits"],
        "first": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "bos": "<|im_start|>",
        "eos": "<|im_end|>",
        "unk": "<|endoftext|>",
        "pad": "<|im_end|>",
        "class": "PreTrainedTokenizerFast",
        "no_bos": True,
        "template": chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    },
    "qwen2": {
        "kind": "byte_level",
        "cuts": [{"regex": "qwen2"}],
        "normalizer": {"type": "NFC"},
        "last": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "bos": None,
        "eos": "<|im_end|>",
        "pad": "<|endoftext|>",
        "class": "Qwen2Tokenizer",
        "no_bos": True,
        "template": chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        "plain": ["<tool_call>", "</tool_call>"],
    },
}
TOKENIZERS["gemma3"] = TOKENIZERS["gemma"] | {"beyond": "<image_soft_token>"}


def byte_level(spec: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE, trained on `TEXTS`."""
    cuts: list[dict[str, Any]] = []
    for cut in spec["cuts"]:
        if cut == "digits":
            cuts.append({"type": "Digits", "individual_digits": True})
        else:
            pattern = {"Regex": REGEXES[cut["regex"]]}
            cuts.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    by_regex = not any(cut["type"] == "Split" for cut in cuts)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": by_regex}
    tokenizer = Tokenizer(models.BPE())
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*cuts, level]}
    tokenizer = Tokenizer.from_str(json.dumps(data))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = spec.get("first", [])
    tokenizer.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=420 + len(first), special_tokens=first, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.add_special_tokens(spec.get("last", []))
    tokenizer.add_tokens(spec.get("plain", []))
    data = json.loads(tokenizer.to_str())
    data["normalizer"] = spec.get("normalizer")
    data["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    data["model"]["ignore_merges"] = spec.get("ignore_merges", False)
    return data


def sentencepiece(spec: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json of a SentencePiece BPE, as transformers' converter writes it: every split is a merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(TEXTS[:6] * 3, trainers.BpeTrainer(vocab_size=230, show_progress=False))
    trained = json.loads(tokenizer.to_str())["model"]
    pieces = [SPACE * 2, SPACE * 4, *("".join(merge) for merge in trained["merges"])]
    letters = sorted({letter for piece in [*trained["vocab"], SPACE] for letter in piece})
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*spec["first"], *byte_tokens, *dict.fromkeys(pieces), *letters]
    vocabulary = {token: row for row, token in enumerate(dict.fromkeys(tokens))}
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in dict.fromkeys(pieces)
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    data = json.loads(Tokenizer(models.BPE()).to_str())
    data["model"] |= {
        "vocab": vocabulary,
        "merges": merges,
        "byte_fallback": True,
        "fuse_unk": True,
        "unk_token": spec["unk"],
    }
    data |= spec["structure"]
    prefixed = spec["structure"] is not SENTENCEPIECE_BARE
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefixed else []
    data["decoder"] = {"type": "Sequence", "decoders": decoders + strip}
    loaded = Tokenizer.from_str(json.dumps(data))
    loaded.add_special_tokens(spec["first"] + spec.get("last", []))
    loaded.add_tokens([AddedToken(run, normalized=False) for run in spec.get("runs", [])])
    if "beyond" in spec:
        fillers = -loaded.get_vocab_size() % ROWS
        loaded.add_special_tokens([f"<unused{filler}>" for filler in range(fillers)] + [spec["beyond"]])
    data = json.loads(loaded.to_str())
    for token in data["added_tokens"]:
        token["rstrip"] = token["content"] in spec.get("stripping", [])
    return data


def write_tokenizer(folder: Path, name: str) -> None:
    """The tokenizer's files of a family, as a model folder has them."""
    spec = TOKENIZERS[name]
    data = byte_level(spec) if spec["kind"] == "byte_level" else sentencepiece(spec)
    ids = {token["content"]: token["id"] for token in data["added_tokens"]}
    if not spec.get("no_bos"):
        start = {"SpecialToken": {"id": spec["bos"], "type_id": 0}}
        body = {"Sequence": {"id": "A", "type_id": 0}}
        second = {"Sequence": {"id": "B", "type_id": 1}}
        data["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [start, body],
            "pair": [start, body, second],
            "special_tokens": {
                spec["bos"]: {"id": spec["bos"], "ids": [ids[spec["bos"]]], "tokens": [spec["bos"]]}
            },
        }
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    roles = {f"{role}_token": spec[role] for role in ("bos", "eos", "unk", "pad") if spec.get(role)}
    settings = {
        "tokenizer_class": spec["class"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": SHAPE["max_position_embeddings"],
        **({"add_bos_token": True} if not spec.get("no_bos") and spec["kind"] == "sentencepiece" else {}),
        **roles,
        **spec.get("settings", {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(spec["template"], encoding="utf-8")


def write_model(folder: Path, architecture: str) -> None:
    """A random model whose norms and biases are far from one and nought, in bf16."""
    spec = dict(CONFIGS[architecture])
    write_tokenizer(folder, spec.pop("tokenizer"))
    model_type = spec.pop("model_type")
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    beyond = TOKENIZERS[CONFIGS[architecture]["tokenizer"]].get("beyond")
    highest = max(token["id"] for token in tokens["added_tokens"] if token["content"] != beyond)
    rows = (max(highest, *tokens["model"]["vocab"].values()) // ROWS + 1) * ROWS
    stored = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokens["added_tokens"]}
    roles = {f"{role}_token_id": ids.get(stored.get(f"{role}_token")) for role in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(model_type, vocab_size=rows, **{**SHAPE, **roles, **spec})
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                # Strong enough for every part to matter, and for the best token to stand out from the others.
                scale = (
                    0.4
                    if "embed" in name
                    else (3.0 if "lm_head" in name else 0.8) / parameter.shape[1] ** 0.5
                )
                parameter.copy_(torch.randn_like(parameter) * scale)
    model.to(torch.bfloat16).save_pretrained(folder)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a small random model by the name of its architecture, written once; read only."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            write_model(folder, architecture)
            AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
            made[architecture] = folder
        return made[architecture]

    return make


@pytest.fixture
def published_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's tokenizer as published, before transformers has read and saved it; a copy of one's own."""

    def make(architecture: str) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        spec = CONFIGS[architecture]
        write_tokenizer(folder, spec["tokenizer"])
        (folder / "config.json").write_text(json.dumps({"model_type": spec["model_type"]}), encoding="utf-8")
        return folder

    return make
