"""A text classifier behind HTTP: `POST /predict` with one text or many gives labels and probabilities.

Texts of requests that wait at the same time go through the model together, grouped by length.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from finetuneflow.deploy.guard import HEALTH, Refused, new_app, read_json
from finetuneflow.deploy.serve_request import ServeRequest
from finetuneflow.modeling.device import choose_precision, describe, prepare
from finetuneflow.modeling.load import LoadedModel, load_classifier

MAX_BODY_BYTES = 8 << 20
MAX_TEXTS = 1000
MAX_CHARACTERS = 20_000
"""Of one text."""
MAX_WAITING = 4 * MAX_TEXTS
"""Texts in the queue; a request that would make it longer is sent away for now."""
ROWS = 64
"""Texts of one forward pass, at most."""
TOKENS = 8192
"""Tokens of one forward pass with padding, at most, unless one text is longer."""
LONGEST = 512
"""Tokens read of a text, as in evaluation."""
FEW_TOKENS = 64
"""Up to here fp32 is faster than bf16, whose weights are rounded at each pass (5.5 against 9.5 ms a text)."""
CLOSE_CALL = 0.5
"""Difference of the two best logits below which bf16 does not decide, at least.

On 1,421 texts of TweetEval the largest error of that difference was 0.10; 4.5 % of them are below 0.5.
"""
SAFETY = 4.0
"""bf16 does not decide below this many times the largest error seen on made-up texts."""
TOO_COARSE = 2.0
"""A model that rounds worse than that is served in fp32: most texts would be read twice."""
PROBES = 64


@dataclass(frozen=True)
class Scores:
    """What the model says of one text."""

    probabilities: list[float]
    """By index of the label."""
    truncated: bool
    """Only the first `LONGEST` tokens were read."""


class Classifier:
    """Texts to probabilities: in bf16 where that is fast, and in fp32 wherever it could change a label."""

    def __init__(self, loaded: LoadedModel, *, bf16: bool) -> None:
        self._loaded = loaded
        limit = getattr(loaded.model.config, "max_position_embeddings", LONGEST)
        self._limit = min(limit, LONGEST)
        self._close = max(CLOSE_CALL, SAFETY * self._rounding()) if bf16 else 0.0
        self.bf16 = bf16 and self._close <= TOO_COARSE

    def __call__(self, texts: Sequence[str]) -> list[Scores]:
        """Scores of the texts, in order."""
        with torch.inference_mode():
            return self._scores(texts)

    def _scores(self, texts: Sequence[str]) -> list[Scores]:
        encoded = self._loaded.tokenizer(list(texts), truncation=True, max_length=self._limit)
        rows: list[list[int]] = encoded["input_ids"]
        cut = [bool(encoding.overflowing) for encoding in encoded.encodings or ()] or [False] * len(rows)
        bf16 = self.bf16 and sum(map(len, rows)) > FEW_TOKENS
        logits = self._logits(rows, range(len(rows)), bf16=bf16)
        if bf16 and logits.shape[1] > 1:
            best = logits.topk(2).values
            close = (best[:, 0] - best[:, 1] < self._close).nonzero().flatten().tolist()
            if close:
                logits[close] = self._logits(rows, close, bf16=False)
        return [Scores(row, short) for row, short in zip(logits.softmax(-1).tolist(), cut, strict=True)]

    def _rounding(self) -> float:
        """The largest error that bf16 makes in a difference of two logits, on rows of random tokens."""
        random = torch.Generator().manual_seed(0)
        size = len(self._loaded.tokenizer)
        lengths = [4 + number % min(60, self._limit - 3) for number in range(PROBES)]
        rows = [torch.randint(size, (length,), generator=random).tolist() for length in lengths]
        with torch.inference_mode():
            exact, rounded = (self._logits(rows, range(PROBES), bf16=bf16) for bf16 in (False, True))
            error = rounded - exact
            return float((error.amax(1) - error.amin(1)).max())

    def _logits(self, rows: list[list[int]], chosen: Sequence[int], *, bf16: bool) -> torch.Tensor:
        """Logits (chosen, labels) in fp32 on the CPU; `bf16` is the number format of the arithmetic."""
        device, pad = self._loaded.device, self._loaded.tokenizer.pad_token_id
        order = sorted(range(len(chosen)), key=lambda place: len(rows[chosen[place]]))
        places: list[int] = []
        outputs: list[torch.Tensor] = []
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            for batch in batches([len(rows[chosen[place]]) for place in order]):
                parts = [torch.tensor(rows[chosen[order[position]]]) for position in batch]
                lengths = torch.tensor([len(part) for part in parts])
                input_ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=pad)
                mask = (torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]).long()
                output = self._loaded.model(input_ids=input_ids.to(device), attention_mask=mask.to(device))
                outputs.append(output.logits.float().cpu())
                places += [order[position] for position in batch]
        logits = torch.empty(len(chosen), outputs[0].shape[1])
        logits[places] = torch.cat(outputs)
        return logits


def batches(lengths: Sequence[int]) -> Iterator[range]:
    """Positions of the texts of each forward pass; `lengths` in tokens, rising."""
    start = 0
    for position in range(1, len(lengths) + 1):
        rows = position - start
        if position == len(lengths) or rows == ROWS or (rows + 1) * lengths[position] > TOKENS:
            yield range(start, position)
            start = position


class Gatherer:
    """Puts the texts of requests that wait together; one forward pass at a time."""

    def __init__(self, score: Callable[[Sequence[str]], list[Scores]]) -> None:
        self._score = score
        self._waiting: deque[tuple[list[str], asyncio.Future[list[Scores]]]] = deque()
        self._thread = ThreadPoolExecutor(1, "model", initializer=prepare, initargs=(0,))
        self._work: asyncio.Task[None] | None = None

    async def __call__(self, texts: list[str]) -> list[Scores]:
        """Scores of a request's texts. Raises Refused when too many texts wait already."""
        if sum(len(waiting) for waiting, _ in self._waiting) + len(texts) > MAX_WAITING:
            raise Refused(503, "too many texts are waiting: try again in a moment", code="overloaded")
        future: asyncio.Future[list[Scores]] = asyncio.get_running_loop().create_future()
        self._waiting.append((texts, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._empty_queue())
        return await future

    async def _empty_queue(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft()]
            count = len(taken[0][0])
            while self._waiting and count + len(self._waiting[0][0]) <= MAX_TEXTS:
                taken.append(self._waiting.popleft())
                count += len(taken[-1][0])
            await self._pass(taken)

    async def _pass(self, taken: list[tuple[list[str], asyncio.Future[list[Scores]]]]) -> None:
        texts = [text for part, _ in taken for text in part]
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self._thread, self._score, texts)
        except Exception as error:  # whoever waits must hear of it
            if len(taken) > 1:  # and nobody else: one of them is to blame, so each goes alone
                for one in taken:
                    await self._pass([one])
            elif not taken[0][1].done():
                taken[0][1].set_exception(error)
            return
        start = 0
        for part, future in taken:
            if not future.done():
                future.set_result(scores[start : start + len(part)])
            start += len(part)

    def close(self) -> None:
        """Ends the thread after the pass under way."""
        self._thread.shutdown(cancel_futures=True)


def read_texts(body: dict[str, Any]) -> tuple[list[str], bool]:
    """The texts of a request, and whether it was a single one.

    Raises:
        Refused: neither `text` nor `texts`, something else in them, or too much.
    """
    given = [name for name in ("text", "texts") if name in body]
    if len(given) != 1 or len(body) != 1:
        raise Refused(400, 'send {"text": "…"} or {"texts": ["…", …]}, and nothing else')
    name = given[0]
    texts = [body["text"]] if name == "text" else body["texts"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(
            400, f"`{name}` must be {'a text' if name == 'text' else 'a list of texts'}", param=name
        )
    if not texts:
        raise Refused(400, "`texts` is empty: there is nothing to label", param=name, code="empty")
    if len(texts) > MAX_TEXTS:
        raise Refused(
            413,
            f"{len(texts):,} texts are more than {MAX_TEXTS:,} at once",
            param=name,
            code="too_many_texts",
        )
    for position, text in enumerate(texts):
        place = name if name == "text" else f"texts[{position}]"
        if not text.strip():
            raise Refused(400, f"`{place}` is empty", param=place, code="empty")
        if len(text) > MAX_CHARACTERS:
            message = f"`{place}` has {len(text):,} characters, more than {MAX_CHARACTERS:,}"
            raise Refused(413, message, param=place, code="text_too_long")
    return texts, name == "text"


def described(scores: Scores, labels: Sequence[str]) -> dict[str, Any]:
    """What a client gets for one text."""
    best = max(range(len(labels)), key=scores.probabilities.__getitem__)
    return {
        "label": labels[best],
        "probabilities": dict(zip(labels, scores.probabilities, strict=True)),
        "truncated": scores.truncated,
    }


def new_classifier_app(gatherer: Gatherer, *, name: str, labels: list[str], runtime: str) -> Starlette:
    """The application over a model that labels texts."""

    async def predict(request: Request) -> JSONResponse:
        texts, single = read_texts(await read_json(request, max_bytes=MAX_BODY_BYTES))
        predictions = [described(scores, labels) for scores in await gatherer(texts)]
        body = predictions[0] if single else {"predictions": predictions}
        return JSONResponse({"model": name, **body})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "model": name, "runtime": runtime})

    async def list_labels(_: Request) -> JSONResponse:
        return JSONResponse({"model": name, "labels": labels})

    return new_app(
        [
            Route("/predict", predict, methods=["POST"]),
            Route("/labels", list_labels),
            Route(HEALTH, health),
        ]
    )


@contextmanager
def open_app(request: ServeRequest) -> Iterator[tuple[Starlette, str]]:
    """Application and runtime of a classifier.

    Raises:
        NotFoundError, ModelError: the model cannot be loaded.
    """
    prepare(0)
    loaded = load_classifier(
        request.model or request.base_model,
        labels=request.labels,
        precision="fp32",
        adapter=Path(request.adapter) if request.adapter else None,
    )
    if request.adapter:
        loaded.model = loaded.model.merge_and_unload()  # the same sums, without the detour at each layer
    fast = request.precision == "bf16" and choose_precision("auto", loaded.device) == "bf16"
    classifier = Classifier(loaded, bf16=fast)
    number_format = "bf16" if classifier.bf16 else "fp32"
    runtime = f"transformers {transformers.__version__}, {describe(loaded.device)}, {number_format}"
    gatherer = Gatherer(classifier)
    try:
        yield new_classifier_app(gatherer, name=request.name, labels=request.labels, runtime=runtime), runtime
    finally:
        gatherer.close()
