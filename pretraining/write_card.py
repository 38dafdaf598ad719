"""Writes the model card: the template filled in with what was measured.

python pretraining/write_card.py --run DIR
"""

import argparse
import json
from pathlib import Path

from safetensors import safe_open

TOKENS_PER_STEP = 8192


def fenced(text: str) -> str:
    """`text` as a Markdown code block."""
    return f"````text\n{text}\n````"


def main() -> None:
    """Reads `log.jsonl`, `evaluation.json` and `final` of a run; writes `final/README.md`."""
    parser = argparse.ArgumentParser(description="Writes the model card of a run.")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--note", default="", help="a remark on how this run went")
    arguments = parser.parse_args()
    last = json.loads((arguments.run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    report = json.loads((arguments.run / "evaluation.json").read_text(encoding="utf-8"))
    weights = arguments.run / "final" / "model.safetensors"
    with safe_open(weights, framework="np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]
    parameters = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes)
    held_out = [
        f"| {language} | {row['nats_per_token']} | {row['bits_per_byte']} |"
        for language, row in report["held_out"].items()
    ]
    exercises = [
        f"| {family} | {row['count']} | {row['exact']:.0%} | {row['holds_value']:.0%} | {row['chance']:.0%} |"
        for family, row in report["exercises"].items()
    ]
    samples = []
    for sample in report["samples"]:
        asked = "\n".join(f"[{message['role']}] {message['content']}" for message in sample["messages"])
        samples.append(fenced(f"{asked}\n[assistant] {sample['answer']}"))
    samples += [fenced(text) for text in report["continuations"]]
    template = (Path(__file__).parent / "model_card.md").read_text(encoding="utf-8")
    card = template.format(
        parameters=f"{parameters / 1e6:.1f} million",
        megabytes=f"{weights.stat().st_size / 1e6:.1f}",
        steps=f"{last['step']:,}",
        tokens=f"{last['step'] * TOKENS_PER_STEP / 1e6:.1f}",
        minutes=round(last["seconds"] / 60),
        note=f" {arguments.note}" if arguments.note else "",
        held_out="\n".join(held_out),
        exercises="\n".join(exercises),
        samples="\n\n".join(samples),
    )
    (arguments.run / "final" / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
