"""A loaded model behind a pipe: `python -m finetuneflow.modeling.answering`.

JSON lines on stdin: first which model to load, then one conversation a line.
JSON lines on stdout, one for each: `{}` once the model is loaded, then `{"text", "seconds"}` or `{"error"}`;
a classifier adds `confidence`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from finetuneflow.errors import FineTuneFlowError
from finetuneflow.modeling.generate import classify, generate
from finetuneflow.modeling.load import load_causal_lm, load_classifier

Answerer = Callable[[list[dict[str, str]]], dict[str, Any]]


def open_answerer(request: dict[str, Any]) -> Answerer:
    """A function from a conversation to its answer.

    Args:
        request: task, base_model, adapter, model (folders or null), labels, precision, max_new_tokens.

    Raises:
        NotFoundError, ModelError: the model cannot be loaded.
    """
    reference = request["model"] or request["base_model"]
    adapter = Path(request["adapter"]) if request["adapter"] else None
    if request["task"] == "sequence_classification":
        labels = list(request["labels"])
        classifier = load_classifier(
            reference, labels=labels, precision=request["precision"], adapter=adapter
        )

        def label(messages: list[dict[str, str]]) -> dict[str, Any]:
            started = time.perf_counter()
            indices, probabilities = classify(classifier, [messages[-1]["content"]])
            seconds = time.perf_counter() - started
            return {"text": labels[indices[0]], "confidence": max(probabilities[0]), "seconds": seconds}

        return label
    loaded = load_causal_lm(reference, precision=request["precision"], adapter=adapter)

    def answer(messages: list[dict[str, str]]) -> dict[str, Any]:
        made = generate(loaded, [messages], max_new_tokens=request["max_new_tokens"], batch_size=1)[0]
        return {"text": made.text, "seconds": made.seconds}

    return answer


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Answers line by line until the requests end; an error is a reply, too."""
    answerer: Answerer | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if answerer is None:
                answerer, reply = open_answerer(request), {}
            else:
                reply = answerer(request["messages"])
        except FineTuneFlowError as error:
            reply = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    torch.manual_seed(0)
    # Libraries may print: what they say goes to stderr, the pipe is for replies alone.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, pipe)
