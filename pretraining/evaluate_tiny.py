"""Measures a model folder: bits per byte on held-out pages, accuracy on new exercises, sample answers.

python pretraining/evaluate_tiny.py --model DIR/final --corpus ../shared/corpus --out DIR/evaluation.json
"""

import argparse
import json
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml
from corpus import Page, load_tokenizer, prose_paragraphs, read_pages
from exercises import FAMILIES, Exercise, make_exercise, retrieval_exercise
from records import Prose, invent_records
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

EVALUATION_SEED = "evaluation"
WINDOW = 512
BATCH = 32


def held_out_figures(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pages: list[Page]
) -> dict[str, dict[str, float]]:
    """Per language: nats per token and bits per byte on held-out pages, in windows of 512 tokens."""
    figures = {}
    for language in ("en", "fr"):
        nats, tokens, size = 0.0, 0, 0
        for page in pages:
            if not page.held_out or page.language != language:
                continue
            ids = tokenizer(page.text, add_special_tokens=False)["input_ids"]
            size += len(page.text.encode())
            for start in range(0, len(ids), WINDOW):
                # The first token of a window is predicted from the end-of-text mark before it.
                window = torch.tensor([[0, *ids[start : start + WINDOW]]], device=model.device)
                logits = model(input_ids=window).logits[0, :-1].float()
                nats += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
                tokens += window.shape[1] - 1
        figures[language] = {
            "tokens": tokens,
            "bytes": size,
            "nats_per_token": round(nats / tokens, 4),
            "bits_per_byte": round(nats / math.log(2) / size, 4),
        }
    return figures


def answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, conversations: list[list[dict[str, str]]]
) -> list[str]:
    """Greedy answers, at most 128 tokens each."""
    answers = []
    tokenizer.padding_side = "left"
    for start in range(0, len(conversations), BATCH):
        encoded = tokenizer.apply_chat_template(
            conversations[start : start + BATCH],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
            padding=True,
        ).to(model.device)
        output = model.generate(**encoded, max_new_tokens=128, do_sample=False)
        answers += tokenizer.batch_decode(
            output[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return answers


def unseen_wording_exercises(
    rng: random.Random, prose: Prose, wordings: dict[str, Any], count: int
) -> list[Exercise]:
    """Look-ups in the product's retrieval prompt, asked in wordings that no exercise holds."""
    made: list[Exercise] = []
    while len(made) < count:
        language = rng.choice(["fr", "en"])
        records = invent_records(rng, prose, language, rng.randint(1, 4))
        record = rng.choice(records)
        known = [field for field in record.values if field in wordings]
        if known:
            field = rng.choice(known)
            question = wordings[field][language].format(n=record.name)
            made.append(retrieval_exercise(rng, records, record, field, question))
    return made


def exercise_figures(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, exercises: list[Exercise]
) -> dict[str, dict[str, float]]:
    """Per family: shares of greedy answers right to the letter and holding the value; level of chance."""
    exercises = sorted(exercises, key=lambda one: sum(len(message["content"]) for message in one.messages))
    answers = answer(model, tokenizer, [one.messages[:-1] for one in exercises])
    grouped: dict[str, list[tuple[bool, bool, float]]] = defaultdict(list)
    for one, said in zip(exercises, answers, strict=True):
        chance = 1 / one.choices if one.choices else 0.0
        grouped[one.family].append(
            (said.strip() == one.messages[-1]["content"].strip(), one.value in said, chance)
        )
    return {
        family: {
            "count": len(rows),
            "exact": round(sum(row[0] for row in rows) / len(rows), 3),
            "holds_value": round(sum(row[1] for row in rows) / len(rows), 3),
            "chance": round(sum(row[2] for row in rows) / len(rows), 3),
        }
        for family, rows in sorted(grouped.items())
    }


def main() -> None:
    """Writes the figures and samples as JSON, and prints them."""
    parser = argparse.ArgumentParser(description="Evaluates the embedded base model.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--per-family", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(arguments.model)
    model = LlamaForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).to(device).eval()
    data = yaml.safe_load((Path(__file__).parent / "evaluation.yaml").read_text(encoding="utf-8"))
    pages = read_pages(arguments.corpus)
    prose = {language: prose_paragraphs(pages, language, held_out=True) for language in ("fr", "en")}
    rng = random.Random(EVALUATION_SEED)
    wanted: dict[str, list[Exercise]] = defaultdict(list)
    while sum(len(found) for found in wanted.values()) < arguments.per_family * (len(FAMILIES) + 1):
        one = make_exercise(rng, prose)
        if len(wanted[one.family]) < arguments.per_family:
            wanted[one.family].append(one)
    exercises = [one for found in wanted.values() for one in found]
    exercises += unseen_wording_exercises(rng, prose, data["unseen_wordings"], 2 * arguments.per_family)
    report = {
        "held_out": held_out_figures(model, tokenizer, pages),
        "exercises": exercise_figures(model, tokenizer, exercises),
        "samples": [
            {"messages": messages, "answer": said}
            for messages, said in zip(data["samples"], answer(model, tokenizer, data["samples"]), strict=True)
        ],
        "continuations": [],
    }
    for text in data["continuations"]:
        encoded = tokenizer(text, return_tensors="pt").to(device)
        output = model.generate(**encoded, max_new_tokens=40, do_sample=False, repetition_penalty=1.2)
        report["continuations"].append(tokenizer.decode(output[0], skip_special_tokens=True))
    arguments.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
