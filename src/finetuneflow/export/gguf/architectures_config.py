"""What a config.json means to llama.cpp: architecture, fields, tensor names. Standard library and YAML only.

The tables are in `assets/architectures.yaml`; what llama.cpp would compute otherwise is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import yaml

from finetuneflow.errors import ModelError

Config = Mapping[str, Any]
BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")


class Field(NamedTuple):
    """One key of a GGUF file; `type` is a name of `gguf.GGUFValueType`, arrays as `ARRAY:<type>`."""

    key: str
    value: Any
    type: str


@dataclass(frozen=True)
class Family:
    """A row of `architectures.yaml`: one `model_type` of transformers."""

    model_type: str
    name: str
    """llama.cpp's name."""
    rope: tuple[str, ...]
    window: int | str
    tensors: dict[str, str]
    blocks: dict[str, str]
    defaults: dict[str, Any]
    half_split: bool = False
    biases: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    norm_offset: float = 0.0
    activation: str = "silu"
    softcapping: str = ""
    scaled_by_width: int = 0
    local_rope_theta: float = 0.0


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of the layers with full attention, wherever the config keeps it."""

    kind: str
    theta: float
    dimensions: int
    values: dict[str, Any] = field(default_factory=dict)
    local_theta: float | None = None
    """Base of the layers with a window, where it is another."""


@cache
def families() -> dict[str, Family]:
    """Every supported architecture by transformers' `model_type`."""
    text = (resources.files("finetuneflow.assets") / "architectures.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    common = data["common"]
    table = {}
    for model_type, row in data["families"].items():
        without = row.pop("without", ())
        blocks = {key: name for key, name in common["blocks"].items() if key not in without}
        row["blocks"] = blocks | row.get("blocks", {})
        row["defaults"] = common["defaults"] | row["defaults"]
        lists = {key: tuple(row[key]) for key in ("rope", "biases", "left_out") if key in row}
        table[model_type] = Family(model_type=model_type, tensors=common["tensors"], **(row | lists))
    return table


def family_of(config: Config) -> Family:
    """The row of a model's architecture.

    Raises:
        ModelError: no such row (code `architecture_unsupported`), naming it and those there are.
    """
    model_type = str(config.get("model_type"))
    family = families().get(model_type)
    if family is None or "text_config" in config:
        supported = ", ".join(f"`{name}`" for name in families())
        raise _refusal(
            f"the architecture `{model_type}` cannot be written as GGUF", f"supported are {supported}"
        )
    check_config(family, config)
    return family


def _refusal(message: str, hint: str = "export the adapter or the merged model instead") -> ModelError:
    return ModelError(message, hint, code="architecture_unsupported")


def setting(family: Family, config: Config, key: str) -> Any:
    """A value of config.json, or what transformers assumes without it."""
    if key == "hidden_act" and config.get("hidden_activation") is not None:
        return config["hidden_activation"]
    return config[key] if key in config else family.defaults.get(key)


def head_counts(family: Family, config: Config) -> tuple[int, int, int]:
    """Query heads, key-value heads, and the size of a head."""
    heads = int(config["num_attention_heads"])
    kv_heads = int(setting(family, config, "num_key_value_heads") or heads)
    size = int(setting(family, config, "head_dim") or int(config["hidden_size"]) // heads)
    return heads, kv_heads, size


def rope_of(family: Family, config: Config) -> Rope:
    """Rotary embedding of a model.

    transformers 5 keeps it in `rope_parameters`, nested by kind of layer where kinds differ; older files have
    `rope_theta`, `rope_scaling` and `rope_local_base_freq`.

    Raises:
        ModelError: a kind of scaling that llama.cpp does not compute for this architecture.
    """
    stored = config.get("rope_parameters") or {}
    nested = stored.get("full_attention")
    local = stored.get("sliding_attention") or {}
    values = dict(config.get("rope_scaling") or {}) | dict(nested if isinstance(nested, dict) else stored)
    kind = str(values.get("rope_type", values.get("type", "default")))
    if family.model_type == "phi3" and kind in ("su", "yarn"):
        kind = "longrope"  # transformers reads the old names so
    if kind not in family.rope:
        raise _refusal(f"rotary scaling `{kind}` cannot be written as GGUF for `{family.model_type}`")
    if local.get("rope_type", "default") != "default":
        raise _refusal(
            f"rotary scaling `{local['rope_type']}` on layers with a window cannot be written as GGUF"
        )
    theta = values.get("rope_theta", setting(family, config, "rope_theta"))
    share = values.get("partial_rotary_factor", setting(family, config, "partial_rotary_factor"))
    size = head_counts(family, config)[2]
    if share != 1.0 and family.name != "phi3":
        raise _refusal(
            f"rotary embedding of {share:.0%} of a head cannot be written for `{family.model_type}`"
        )
    local_theta = local.get("rope_theta", setting(family, config, "rope_local_base_freq"))
    return Rope(
        kind, float(theta), int(size * share), values, None if local_theta is None else float(local_theta)
    )


def original_context(family: Family, config: Config, rope: Rope) -> int:
    """Longest context before rotary scaling, tokens."""
    for place in (
        rope.values.get("original_max_position_embeddings"),
        setting(family, config, "original_max_position_embeddings"),
        setting(family, config, "max_position_embeddings"),
    ):
        if place:
            return int(place)
    return 0


def context_length(family: Family, config: Config) -> int:
    """Tokens up to which llama.cpp computes what transformers does.

    Where llama.cpp knows no sliding window for the architecture, the two are the same within one window.
    With `longrope`, llama.cpp takes the long factors for every text as soon as the context may be longer than
    the original one; transformers only for texts that are.
    """
    longest = int(setting(family, config, "max_position_embeddings"))
    rope = rope_of(family, config)
    if rope.kind == "longrope":
        longest = min(longest, original_context(family, config, rope))
    window = sliding_window(family, config)
    return min(longest, window) if family.window == "never" and window else longest


def sliding_window(family: Family, config: Config) -> int | None:
    """Tokens that a layer with a window looks back on; None without one."""
    if setting(family, config, "use_sliding_window") is False:
        return None
    window = setting(family, config, "sliding_window")
    return int(window) if window else None


def fields_of(family: Family, config: Config) -> list[Field]:
    """The keys that describe the network; those of the file and of the tokenizer are not among them."""
    heads, kv_heads, size = head_counts(family, config)
    rope = rope_of(family, config)
    fields = [
        Field("vocab_size", int(config["vocab_size"]), "UINT32"),
        Field("context_length", context_length(family, config), "UINT32"),
        Field("embedding_length", int(config["hidden_size"]), "UINT32"),
        Field("block_count", int(config["num_hidden_layers"]), "UINT32"),
        Field("feed_forward_length", int(config["intermediate_size"]), "UINT32"),
        Field("attention.head_count", heads, "UINT32"),
        Field("attention.head_count_kv", kv_heads, "UINT32"),
        Field("attention.key_length", size, "UINT32"),
        Field("attention.value_length", size, "UINT32"),
        Field("attention.layer_norm_rms_epsilon", float(setting(family, config, "rms_norm_eps")), "FLOAT32"),
        Field("rope.dimension_count", rope.dimensions, "UINT32"),
        Field("rope.freq_base", rope.theta, "FLOAT32"),
        *_scaling_fields(family, config, rope),
    ]
    if family.window != "never":
        fields.append(Field("attention.sliding_window", int(sliding_window(family, config) or 0), "UINT32"))
    if family.softcapping == "required":
        fields += [
            Field(key, float(setting(family, config, key)), "FLOAT32")
            for key in ("attn_logit_softcapping", "final_logit_softcapping")
        ]
    return [Field(f"{family.name}.{key}", value, kind) for key, value, kind in fields]


def _scaling_fields(family: Family, config: Config, rope: Rope) -> list[Field]:
    original = Field("rope.scaling.original_context_length", original_context(family, config, rope), "UINT32")
    if rope.kind == "longrope":
        return [
            original,
            Field("rope.scaling.attn_factor", _longrope_attention(family, config, rope), "FLOAT32"),
        ]
    if family.name == "phi3":
        return [original]
    if rope.kind in ("linear", "yarn"):
        fields = [
            Field("rope.scaling.type", rope.kind, "STRING"),
            Field("rope.scaling.factor", float(rope.values["factor"]), "FLOAT32"),
        ]
        return [*fields, original] if rope.kind == "yarn" else fields
    return []


def _longrope_attention(family: Family, config: Config, rope: Rope) -> float:
    stored = rope.values.get("attention_factor")
    if stored is not None:
        return float(stored)
    original = original_context(family, config, rope)
    factor = rope.values.get("factor") or setting(family, config, "max_position_embeddings") / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def check_config(family: Family, config: Config) -> None:
    """Refuses what llama.cpp would compute otherwise than transformers.

    Raises:
        ModelError: code `architecture_unsupported`, naming the setting.
    """
    if config.get("quantization_config"):
        raise _refusal(
            "the weights of this model are quantised already, and cannot be written as GGUF",
            "start from the 16-bit weights of the same model",
        )
    activation = setting(family, config, "hidden_act")
    if activation != family.activation:
        raise _refusal(f"activation `{activation}` cannot be written as GGUF for `{family.model_type}`")
    biases = {"attention_bias": "self_attn.o_proj", "mlp_bias": "mlp.down_proj"}
    for key, module in biases.items():
        if setting(family, config, key) and module not in family.biases:
            raise _refusal(f"`{key}: true` cannot be written as GGUF for `{family.model_type}`")
    if setting(family, config, "use_bidirectional_attention"):
        raise _refusal("attention in both directions cannot be written as GGUF")
    _check_yarn(rope_of(family, config))
    _check_gemma(family, config)


def _check_yarn(rope: Rope) -> None:
    unusual = {"attention_factor", "mscale", "mscale_all_dim", "truncate"} & {
        key for key, value in rope.values.items() if value is not None
    }
    slow, fast = rope.values.get("beta_slow") or 1, rope.values.get("beta_fast") or 32
    if rope.kind == "yarn" and (unusual or (slow, fast) != (1, 32)):
        raise _refusal("rotary scaling `yarn` can be written as GGUF with its default values only")


def _check_gemma(family: Family, config: Config) -> None:
    if isinstance(family.window, int):
        layers = config.get("layer_types") or layer_types(family, config)
        if list(layers) != layer_types(family, config, family.window) or not sliding_window(family, config):
            raise _refusal(
                f"this order of layers with a window cannot be written as GGUF for `{family.model_type}`"
            )
    if family.local_rope_theta and rope_of(family, config).local_theta != family.local_rope_theta:
        raise _refusal("another rotary base than 10000 on layers with a window cannot be written as GGUF")
    capped = [setting(family, config, key) for key in ("attn_logit_softcapping", "final_logit_softcapping")]
    if (family.softcapping == "required" and None in capped) or (
        family.softcapping == "refused" and capped != [None, None]
    ):
        raise _refusal(f"this soft capping of logits cannot be written as GGUF for `{family.model_type}`")
    scale = setting(family, config, "query_pre_attn_scalar")
    heads, _, size = head_counts(family, config)
    if int(config["num_hidden_layers"]) == family.scaled_by_width:
        size = int(config["hidden_size"]) // heads
    if scale is not None and scale != size:
        raise _refusal(
            f"`query_pre_attn_scalar: {scale}` cannot be written as GGUF: llama.cpp scales by {size}"
        )


def layer_types(family: Family, config: Config, period: int | None = None) -> list[str]:
    """Kind of attention of each layer, one full layer in every `period`."""
    every = period or int(setting(family, config, "sliding_window_pattern") or family.window)
    return [
        "full_attention" if (layer + 1) % every == 0 else "sliding_attention"
        for layer in range(int(config["num_hidden_layers"]))
    ]


def tensor_name(family: Family, hf_name: str, config: Config) -> str | None:
    """llama.cpp's name of a tensor; None for what is left out on purpose.

    Raises:
        ModelError: a tensor that this architecture does not have.
    """
    module, _, kind = hf_name.rpartition(".")
    if module == "lm_head" and setting(family, config, "tie_word_embeddings"):
        return None
    if kind == "weight" and module in family.tensors:
        return f"{family.tensors[module]}.weight"
    if found := BLOCK.fullmatch(module):
        layer, part = found.groups()
        if f"{part}.{kind}" in family.left_out:
            return None
        if part in family.blocks and (kind == "weight" or (kind == "bias" and part in family.biases)):
            return f"blk.{layer}.{family.blocks[part]}.{kind}"
    raise ModelError(
        f"the tensor `{hf_name}` does not belong to the architecture `{family.model_type}`",
        "the model has parts that GGUF cannot hold: export the merged model instead",
        code="architecture_unsupported",
    )
