"""`deploy serve` against transformers' pipeline: `python benchmarks/serve.py RUN`, the run of a classifier.

Both sides label the same 500 texts on the same machine, in turns; the pipeline is at its defaults, the server
is asked over HTTP in batches. Fails where the server is not 3 times as fast, or where a label differs.
Only a quiet machine says how fast each is: beside other programs the pipeline's waiting threads make it
slower still (`GOMP_SPINCOUNT=10000` for both is kinder to it).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import transformers
from transformers import pipeline

from finetuneflow.services import runs
from finetuneflow.services.context import using_context

RATIO = 3.0
TEXTS = 500
BATCH = 100
"""Texts of one request."""
ROUNDS = 5
CONNECTIONS = 16
"""For single texts asked at the same time; told, not promised."""


@contextmanager
def served(run_id: str) -> Iterator[httpx.Client]:
    """A client of `finetuneflow deploy serve`."""
    command = [sys.executable, "-m", "finetuneflow", "deploy", "serve", run_id, "--port", "0"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    try:
        address = (process.stdout.readline() if process.stdout else "").strip()
        if not address:
            sys.exit("the server did not start")
        with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.communicate()


def predict(client: httpx.Client, texts: list[str]) -> list[dict[str, Any]]:
    """Predictions of one request."""
    reply = client.post("/predict", json={"texts": texts}).raise_for_status().json()
    return list(reply["predictions"])


def in_batches(client: httpx.Client, texts: list[str]) -> list[dict[str, Any]]:
    """Predictions of all texts, one request after the other."""
    return [
        row for start in range(0, len(texts), BATCH) for row in predict(client, texts[start : start + BATCH])
    ]


def one_by_one(client: httpx.Client, texts: list[str]) -> list[dict[str, Any]]:
    """Predictions of all texts, each a request, some at the same time."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return [rows[0] for rows in pool.map(lambda text: predict(client, [text]), texts)]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came out."""
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


def main() -> int:
    """Measures and gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="id of a classifier's run")
    data = Path(os.environ.get("FTF_SHARED_DATA", "../shared/data"))
    parser.add_argument("--texts", type=Path, default=data / "classification/emotion/test_text.txt")
    arguments = parser.parse_args()
    texts = arguments.texts.read_text(encoding="utf-8").splitlines()[:TEXTS]
    with using_context() as context:
        run, trained = runs.finished(context, arguments.run)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    reference = pipeline("text-classification", model=str(Path(run.folder) / (trained.model or "")))
    rounds = []
    with served(arguments.run) as client:
        for work in (reference, lambda part: predict(client, part)):
            work(texts[:BATCH])
        for _ in range(ROUNDS):
            theirs, expected = timed(lambda: reference(texts))
            ours, predictions = timed(lambda: in_batches(client, texts))
            rounds.append((theirs, ours))
            print(f"pipeline {theirs:6.3f} s   served {ours:6.3f} s   {theirs / ours:5.2f} times as fast")
        alone, singles = timed(lambda: one_by_one(client, texts))
    labels = [row["label"] for row in expected]
    different = sum(row["label"] != label for row, label in zip(predictions, labels, strict=True))
    different += sum(row["label"] != label for row, label in zip(singles, labels, strict=True))
    furthest = max(
        abs(row["probabilities"][said["label"]] - said["score"])
        for row, said in zip(predictions, expected, strict=True)
    )
    ratio = statistics.median(theirs / ours for theirs, ours in rounds)
    kept = ratio >= RATIO and not different
    print(
        f"{len(texts)} texts in requests of {BATCH}: {ratio:.2f} times as fast (median of {ROUNDS}), "
        f"promised {RATIO:g}; labels that differ: {different}; probabilities within {furthest:.4f}   "
        f"{'kept' if kept else 'BROKEN'}"
    )
    print(f"the same texts one a request, {CONNECTIONS} at a time: {alone:.3f} s")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
