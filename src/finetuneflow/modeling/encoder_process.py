"""An encoder behind a pipe: `python -m finetuneflow.modeling.encoder_process`.

JSON lines on stdin: first `{"reference"}`, then `{"texts"}`, again and again.
JSON lines on stdout, one for each: `{"identity", "query_prefix", "passage_prefix"}` once the model is loaded,
then `{"vectors"}`, the rows as float32, little-endian, base64; or `{"error"}`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import IO, Any, Literal

import torch
from transformers import AutoModel

from finetuneflow.errors import FineTuneFlowError, ModelError
from finetuneflow.modeling.device import choose_device, choose_precision, prepare, torch_dtype
from finetuneflow.modeling.fingerprint import fingerprint
from finetuneflow.modeling.load import load_tokenizer, resolve
from finetuneflow.modeling.locate import read_config

BATCH = 32
LONGEST_TOKENS = 512
Pooling = Literal["mean", "cls", "last"]
POOLING: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


class LoadedEncoder:
    """An encoder as its folder describes it, in the layout of sentence-transformers."""

    def __init__(self, reference: str) -> None:
        folder = resolve(reference)
        self.device = choose_device()
        precision = choose_precision("auto", self.device)
        self.pooling = _pooling(folder)
        limit = _settings(folder / "sentence_bert_config.json").get("max_seq_length")
        self.limit = min(limit or LONGEST_TOKENS, LONGEST_TOKENS)
        self.tokenizer = load_tokenizer(folder)
        try:
            self.model = AutoModel.from_pretrained(
                folder, dtype=torch_dtype(precision), use_safetensors=True, attn_implementation="sdpa"
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0][:200]
            raise ModelError(
                f"the encoder in `{folder}` cannot be loaded: {reason}", "check that its files are whole"
            ) from error
        self.model.to(self.device).eval()
        self.identity = f"{fingerprint(folder)}-{self.pooling}-{self.limit}-{precision}"
        prompts = _settings(folder / "config_sentence_transformers.json").get("prompts") or {}
        self.query_prefix: str | None = prompts.get("query")
        self.passage_prefix: str | None = prompts.get("document", prompts.get("passage"))

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> torch.Tensor:
        """Rows of length 1 (texts, dimensions), float32; batches of texts of like length."""
        encoded = self.tokenizer(texts, truncation=True, max_length=self.limit)["input_ids"]
        order = sorted(range(len(texts)), key=lambda index: (len(encoded[index]), index))
        rows = torch.zeros(len(texts), self.model.config.hidden_size)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            padded = self.tokenizer.pad(
                {"input_ids": [encoded[index] for index in batch]}, return_tensors="pt"
            ).to(self.device)
            hidden = self.model(**padded).last_hidden_state.float()
            rows[batch] = self._pool(hidden, padded["attention_mask"]).cpu()
        return torch.nn.functional.normalize(rows, dim=-1)

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One row a text, from its tokens (texts, tokens, dimensions)."""
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            positions = torch.arange(mask.shape[1], device=mask.device)
            return hidden[torch.arange(len(mask)), (mask * positions).argmax(1)]
        weights = mask[:, :, None].float()
        return (hidden * weights).sum(1) / weights.sum(1)


def _pooling(folder: Path) -> Pooling:
    settings = _settings(folder / "1_Pooling" / "config.json")
    wanted = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    if not wanted:
        if any("CausalLM" in name for name in read_config(folder).get("architectures") or ()):
            raise ModelError(
                f"the model in `{folder}` writes text: it is not an encoder",
                "give `embedded:minilm`, or an encoder in the layout of sentence-transformers",
            )
        return "mean"
    if len(wanted) > 1 or wanted[0] not in POOLING:
        raise ModelError(
            f"the encoder in `{folder}` pools by {', '.join(wanted)}", "mean, first and last token are known"
        )
    return POOLING[wanted[0]]


def _settings(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file."""
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Answers line by line until the requests end; an error is a reply, too."""
    encoder: LoadedEncoder | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if encoder is None:
                encoder = LoadedEncoder(request["reference"])
                reply: dict[str, Any] = {
                    "identity": encoder.identity,
                    "query_prefix": encoder.query_prefix,
                    "passage_prefix": encoder.passage_prefix,
                }
            else:
                rows = encoder.embed(request["texts"]).numpy().astype("<f4")
                reply = {"vectors": base64.b64encode(rows.tobytes()).decode()}
        except FineTuneFlowError as error:
            reply = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    prepare(0)
    # Libraries may print: what they say goes to stderr, the pipe is for replies alone.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, pipe)
