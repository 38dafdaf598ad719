"""A local model that answers: base, base with adapter, or merged; weights are read by the first question."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetuneflow.artifacts import sha256_file
from finetuneflow.evaluation.answerers import Answerer, Conversation, Generation, open_requests
from finetuneflow.modeling.device import choose_device, choose_precision
from finetuneflow.modeling.fingerprint import check_adapter, fingerprint
from finetuneflow.modeling.generate import generate
from finetuneflow.modeling.load import LoadedModel, load_causal_lm, load_tokenizer, resolve
from finetuneflow.modeling.locate import read_config
from finetuneflow.modeling.tokenize import render, token_ids
from finetuneflow.schemas.answerer import Answered, AnswererSpec

PROMPT_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class Local:
    """A causal language model of this machine, in batches of like length."""

    def __init__(self, spec: AnswererSpec, how: Generation, loaded: LoadedModel | None = None) -> None:
        self._spec = spec
        self._how = how
        self._loaded = loaded
        folder = loaded.folder if loaded else resolve(spec.model)
        self._tokenizer = loaded.tokenizer if loaded else load_tokenizer(folder)
        config = loaded.model.config.to_dict() if loaded else read_config(folder)
        self.batch: int | None = how.batch_size
        self.limit: int | None = config.get("max_position_embeddings")
        self.identity = identity(folder, spec)

    def prompt(self, messages: Conversation) -> str:
        """The conversation as training wrote it, up to the opening of the answer."""
        return render(self._tokenizer, messages, prompt=True)

    def size(self, messages: Conversation) -> int:
        """Tokens."""
        return len(token_ids(self._tokenizer, self.prompt(messages)))

    def answer(self, conversations: Sequence[Conversation]) -> Iterator[Mapping[int, Answered]]:
        """All answers at once: the caller cuts the batches. Raises ModelError when it cannot be loaded."""
        answers = generate(
            self._model(),
            list(conversations),
            max_new_tokens=self._how.max_new_tokens,
            batch_size=self._how.batch_size,
        )
        yield {
            position: Answered(
                text=made.text,
                seconds=made.seconds,
                busy_seconds=made.seconds,
                new_tokens=made.new_tokens,
                stopped=made.stopped,
            )
            for position, made in enumerate(answers)
        }

    def close(self) -> None:
        """Lets the weights go."""
        self._loaded = None
        gc.collect()

    def _model(self) -> LoadedModel:
        if self._loaded is None:
            adapter = Path(self._spec.adapter) if self._spec.adapter else None
            self._loaded = load_causal_lm(self._spec.model, precision=self._spec.precision, adapter=adapter)
        return self._loaded


def identity(folder: Path, spec: AnswererSpec) -> str:
    """Weights, adapter, tokenizer, number format and device of a local model.

    Raises:
        ModelError: the adapter was made for another base.
    """
    mark = fingerprint(folder)
    digest = hashlib.sha256(mark.encode())
    for name in PROMPT_FILES:
        if (folder / name).is_file():
            digest.update(f"{name} {sha256_file(folder / name)}".encode())
    if spec.adapter:
        adapter = Path(spec.adapter)
        check_adapter(adapter, mark)
        for name in ADAPTER_FILES:
            if (adapter / name).is_file():
                digest.update(f"{name} {sha256_file(adapter / name)}".encode())
    device = choose_device()
    precision = choose_precision(spec.precision, device)
    what = "with an adapter " if spec.adapter else ""
    return f"local {folder.name} {what}{digest.hexdigest()[:16]}, {precision} on {device.type}"


@contextmanager
def open_answerer(
    spec: AnswererSpec, how: Generation, conversations: Sequence[Conversation] = ()
) -> Iterator[Answerer]:
    """Whoever a specification names, ready to answer; loaded or started once, by the first question.

    Args:
        spec: Who answers.
        how: Settings.
        conversations: What will be asked, as far as it is known.

    Raises:
        UsageError, NotFoundError, DependencyError, ModelError, OllamaError, EndpointError.
    """
    if spec.kind != "local":
        with open_requests(spec, how, conversations) as requests:
            yield requests
        return
    local = Local(spec, how)
    try:
        yield local
    finally:
        local.close()
