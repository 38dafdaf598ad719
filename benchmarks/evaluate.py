"""A thousand short questions to a local model, as an evaluation asks them and one by one.

    python benchmarks/evaluate.py                  embedded:tiny, 1,000 questions
    python benchmarks/evaluate.py --questions 200 --batch-size 16 --precision fp32

Both sides use one loaded model and take turns, a quarter of the questions at a time, so that whoever else
uses the machine slows both. Answers are short, too: 24 tokens at most. The evaluation's side includes all
that it does beside: rendering, ordering by length, scoring, and keeping every answer on disk.

Answers must be the same, up to declared ties: where they part, the two tokens' logits differ by no more than
the number format can tell apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import torch

from finetuneflow.evaluation.answerers import Generation
from finetuneflow.evaluation.answerers_cache import AnswerCache
from finetuneflow.evaluation.answerers_local import Local
from finetuneflow.evaluation.answerers_round import Round
from finetuneflow.evaluation.items import AnswerLog, Progress
from finetuneflow.modeling.device import describe, prepare
from finetuneflow.modeling.generate import generate
from finetuneflow.modeling.load import LoadedModel, load_causal_lm
from finetuneflow.modeling.tokenize import encode_prompt, token_ids
from finetuneflow.schemas.answerer import AnswererSpec
from finetuneflow.schemas.evaluation import TestItem
from finetuneflow.services.evaluations import BATCH_SIZE

PROMISE = 5.0
TIES = {"bf16": 0.25, "fp32": 1e-3}
"""Logits that differ by less are a tie: two steps of bf16 at the size that logits have."""
TURNS = 4
WARM_UP = 200
"""Other questions, asked before the clock starts."""
WORDINGS = (
    "Quel est le statut de {} ?",
    "À quoi sert {} ?",
    "Quel est le domaine de {} ?",
    "Qui utilise {} ?",
    "Sur quels sites trouve-t-on {} ?",
    "What is {}?",
    "Which domain does {} belong to?",
    "Is {} in production?",
)


def questions(count: int) -> list[TestItem]:
    """Different short questions about the applications of the sample."""
    file = resources.files("finetuneflow.assets") / "sample" / "catalogue.json"
    names = [row["nom"] for row in json.loads(file.read_text(encoding="utf-8"))["applications"]]
    names += [f"{name} {number}" for number in range(2, 12) for name in names]
    asked = [wording.format(name) for name in names for wording in WORDINGS][:count]
    return [
        TestItem(id=str(number), messages=[{"role": "user", "content": text}], expected="oui")
        for number, text in enumerate(asked)
    ]


def one_by_one(loaded: LoadedModel, items: list[TestItem], max_new_tokens: int) -> dict[str, str]:
    """Item id to answer, a model call each."""
    return {
        item.id: generate(loaded, [item.messages], max_new_tokens=max_new_tokens, batch_size=1)[0].text
        for item in items
    }


def evaluated(loaded: LoadedModel, items: list[TestItem], how: Generation, folder: Path) -> dict[str, str]:
    """Item id to answer, as the evaluation stage asks."""
    local = Local(AnswererSpec(kind="local", model=str(loaded.folder)), how, loaded)
    log = AnswerLog(folder / "predictions.jsonl", items)
    progress = Progress(len(items), 0, lambda *_: None, lambda: False)
    cache = AnswerCache(folder / "answers", local.identity, how)
    Round(local, "base", how, log, progress, lambda _: None, cache).run(items)
    return {item_id: row.predicted for item_id, row in log.answers["base"].items()}


@torch.inference_mode()
def gap(loaded: LoadedModel, item: TestItem, first: str, second: str) -> float:
    """How far apart the model's logits are where two answers part."""
    prompt = encode_prompt(loaded.tokenizer, item.messages)
    one, two = (token_ids(loaded.tokenizer, text) for text in (first, second))
    end = [loaded.tokenizer.eos_token_id]
    one, two = one + end, two + end
    place = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    ids = torch.tensor([prompt + one[:place]], device=loaded.device)
    logits = loaded.model(ids).logits[0, -1].float()
    return abs(float(logits[one[place]] - logits[two[place]]))


def main() -> int:
    """Measures and gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="embedded:tiny")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    chosen = parser.parse_args()
    prepare(0)
    loaded = load_causal_lm(chosen.model, precision=chosen.precision)
    asked = questions(chosen.questions + WARM_UP)
    items, first = asked[: chosen.questions], asked[chosen.questions :]
    how = Generation(chosen.max_new_tokens, 0, chosen.batch_size)
    walls, processors = [0.0, 0.0], [0.0, 0.0]
    answers: list[dict[str, str]] = [{}, {}]
    with tempfile.TemporaryDirectory() as folder:
        # The first call of every shape compiles its kernels, which is no time of an answer.
        one_by_one(loaded, first, chosen.max_new_tokens)
        evaluated(loaded, first, how, Path(folder) / "warm")
        for turn in range(TURNS):
            part = items[turn::TURNS]
            for side in (0, 1):
                wall, processor = time.perf_counter(), time.process_time()
                if side == 0:
                    answers[0] |= one_by_one(loaded, part, chosen.max_new_tokens)
                else:
                    answers[1] |= evaluated(loaded, part, how, Path(folder) / str(turn))
                walls[side] += time.perf_counter() - wall
                processors[side] += time.process_time() - processor
            so_far = " against ".join(
                f"{w:.1f} s ({p:.1f} s of processor)" for w, p in zip(walls, processors, strict=True)
            )
            print(f"turn {turn + 1} of {TURNS}: {so_far}", file=sys.stderr)
    precision = "bf16" if loaded.dtype == torch.bfloat16 else "fp32"
    parted = [item for item in items if answers[0][item.id] != answers[1][item.id]]
    gaps = [gap(loaded, item, answers[0][item.id], answers[1][item.id]) for item in parted]
    untied = sum(value > TIES[precision] for value in gaps)
    faster = walls[0] / walls[1]
    kept = faster >= PROMISE and not untied
    print(f"{len(items):,} questions to {chosen.model}, {precision}, {describe(loaded.device)}")
    for name, wall, processor in zip(
        ("one by one", f"batches of {chosen.batch_size}"), walls, processors, strict=True
    ):
        each = 1000 * wall / len(items)
        print(f"  {name:<14} {wall:7.1f} s, {each:6.1f} ms each ({processor:.1f} s of processor)")
    by_processor = processors[0] / processors[1]
    print(f"  {faster:.1f} times as fast, {by_processor:.1f} by processor time (promised: {PROMISE:.0f})")
    print(
        f"  {len(items) - len(parted):,} answers the same, {len(parted) - untied} part at a tie of logits"
        f" (within {TIES[precision]}), {untied} differ  {'kept' if kept else 'BROKEN'}"
    )
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
