"""Pre-trains the embedded base model from a folder of text: tokenizer, data, training, model folder.

python pretraining/pretrain_tiny.py --corpus ../shared/corpus --out DIR --steps 3000
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from batches import IGNORED, Batch, BatchMaker, ChatEncoder, Mix
from corpus import Page, TokenStream, describe, load_tokenizer, prose_paragraphs, read_pages, train_tokenizer
from exercises import make_exercise
from model import MasterOptimizer, build_model, export, learning_rate_factor, save_checkpoint
from records import Prose
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TOKENS_PER_STEP = 8192
ROW_LENGTHS = [(0.0, 256), (0.2, 512), (0.88, 1024)]
"""From which part of the run on rows have how many tokens."""
DRILL_SHARE, DRILLS_FALL, DRILLS_END = 0.4, 0.05, 0.3
MIX_MOVES, FULL_MIX = 0.03, 0.25
CHECKPOINT_SECONDS = 240
SNAPSHOT_SECONDS = 600
FIRST_SNAPSHOT_STEP = 20


def tokenizer_texts(pages: list[Page], prose: Prose, seed: int) -> Iterator[str]:
    """What the tokenizer is trained on: training pages, French twice, and 12,000 exercises."""
    for page in pages:
        if not page.held_out:
            yield from [page.text] * (2 if page.language == "fr" else 1)
    rng = random.Random(f"{seed}/tokenizer")
    for _ in range(12_000):
        yield "\n".join(message["content"] for message in make_exercise(rng, prose).messages)


def mix_at(progress: float) -> Mix:
    """Short rows and echo drills first, then the full mix of exercises, long rows last."""
    length = max(length for start, length in ROW_LENGTHS if progress >= start)
    drills = DRILL_SHARE * min(1.0, max(0.0, (DRILLS_END - progress) / (DRILLS_END - DRILLS_FALL)))
    late = min(1.0, max(0.0, (progress - MIX_MOVES) / (FULL_MIX - MIX_MOVES)))
    return Mix(TOKENS_PER_STEP // length, length, drills, late)


def losses(
    model: LlamaForCausalLM, batch: Batch, device: str
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Mean loss (nats per token) on corpus rows, the same on the other rows, and figures for the log.

    Logits are computed only where there is a target.
    """
    hidden = model.model(input_ids=batch.inputs.to(device), use_cache=False).last_hidden_state
    targets, half, drills = batch.targets.to(device), batch.text_rows, batch.drill_rows
    asked = targets[half:] != IGNORED
    asked_targets = targets[half:][asked]
    text_logits = model.lm_head(hidden[:half]).flatten(0, 1).float()
    asked_logits = model.lm_head(hidden[half:][asked]).float()
    text = torch.nn.functional.cross_entropy(text_logits, targets[:half].flatten())
    losses_asked = torch.nn.functional.cross_entropy(asked_logits, asked_targets, reduction="none")
    right = (asked_logits.detach().argmax(-1) == asked_targets).float()
    drilled = int(asked[:drills].sum())
    figures = {
        "corpus_loss": text.item(),
        "drill_loss": losses_asked[:drilled].mean().item() if drilled else 0.0,
        "drill_tokens_right": right[:drilled].mean().item() if drilled else 0.0,
        "exercise_loss": losses_asked[drilled:].mean().item(),
        "answer_tokens_right": right[drilled:].mean().item(),
        "answer_tokens": float(len(right) - drilled),
    }
    return text, losses_asked.mean(), figures


class Clock:
    """How far the run is: by steps, or by time when there is a deadline, whichever is further."""

    def __init__(self, steps: int, deadline_minutes: float | None, spent_seconds: float) -> None:
        self._steps = steps
        self._deadline = None if deadline_minutes is None else deadline_minutes * 60
        self._began = time.monotonic() - spent_seconds

    @property
    def seconds(self) -> float:
        """Time spent, earlier parts of a resumed run included."""
        return time.monotonic() - self._began

    def progress(self, step: int) -> float:
        """0 at the start, 1 when the run must end."""
        timed = 0.0 if self._deadline is None else self.seconds / self._deadline
        return max(step / self._steps, timed)


class Run:
    """One training run in the folder `out`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out: Path = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(arguments.seed)
        self.pages = read_pages(arguments.corpus)
        self.prose = {language: prose_paragraphs(self.pages, language) for language in ("fr", "en")}
        self.tokenizer = self._tokenizer()
        self.model = build_model(self.tokenizer, self.device)
        self.optimizer = MasterOptimizer(self.model)
        stream = TokenStream(self.pages, self.tokenizer, arguments.seed)
        self.batches = BatchMaker(stream, ChatEncoder(self.tokenizer), self.prose, arguments.seed)
        self.step, spent = self._resume()
        self.clock = Clock(arguments.steps, arguments.deadline_minutes, spent)
        parameters = sum(weight.numel() for weight in self.model.parameters())
        print(
            f"{describe(self.pages)}\n{parameters:,} parameters, {stream.epoch_tokens:,} tokens an epoch",
            flush=True,
        )

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        folder = self.out / "tokenizer"
        if not (self.arguments.resume and folder.exists()):
            train_tokenizer(tokenizer_texts(self.pages, self.prose, self.arguments.seed)).save_pretrained(
                folder
            )
        return load_tokenizer(folder)

    def _resume(self) -> tuple[int, float]:
        path = self.out / "checkpoint.pt"
        if not (self.arguments.resume and path.exists()):
            return 0, 0.0
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.optimizer.load(saved["optimizer"])
        return saved["step"], saved["seconds"]

    def train(self) -> None:
        """Trains until the clock says so; writes `log.jsonl`, checkpoints and snapshots on the way."""
        for layer in self.model.model.layers:
            layer.compile(dynamic=False)
        saved_at, shown_at = self.clock.seconds, 0.0
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            while (progress := self.clock.progress(self.step)) < 1.0:
                began = time.monotonic()
                figures = self._one_step(progress)
                self.step += 1
                entry = {"step": self.step, "progress": round(progress, 4), **figures}
                entry["tokens_per_second"] = round(TOKENS_PER_STEP / (time.monotonic() - began))
                entry["seconds"] = round(self.clock.seconds)
                log.write(json.dumps(entry) + "\n")
                log.flush()
                if self.clock.seconds - saved_at > CHECKPOINT_SECONDS:
                    saved_at = self.clock.seconds
                    self._checkpoint()
                if self.step == FIRST_SNAPSHOT_STEP or self.clock.seconds - shown_at > SNAPSHOT_SECONDS:
                    shown_at = self.clock.seconds
                    export(self.model, self.tokenizer, self.out / "snapshot")
        self._checkpoint()

    def _one_step(self, progress: float) -> dict[str, float]:
        batch = self.batches.make(self.step, mix_at(progress))
        text, asked, figures = losses(self.model, batch, self.device)
        (0.5 * text + 0.5 * asked).backward()
        factor = learning_rate_factor(self.step, progress)
        norm = self.optimizer.step(factor)
        figures |= {"learning_rate_factor": factor, "gradient_norm": norm}
        return {name: round(figure, 4) for name, figure in figures.items()}

    def _checkpoint(self) -> None:
        content = {"optimizer": self.optimizer.state(), "step": self.step, "seconds": self.clock.seconds}
        save_checkpoint(self.out / "checkpoint.pt", content)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--corpus", type=Path, default=Path("../shared/corpus"), help="folder of *.txt.gz files"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the log, checkpoints and the model"
    )
    parser.add_argument(
        "--steps", type=int, default=3000, help=f"optimizer steps of {TOKENS_PER_STEP:,} tokens"
    )
    parser.add_argument(
        "--deadline-minutes", type=float, help="end by then, with the whole decay, if steps are slow"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    return parser.parse_args()


def main() -> None:
    """Trains and writes `final` in the output folder."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    run = Run(arguments)
    run.train()
    export(run.model, run.tokenizer, arguments.out / "final")
    print(
        f"{run.step} steps, {run.step * TOKENS_PER_STEP:,} tokens, {run.clock.seconds / 60:.1f} minutes",
        flush=True,
    )


if __name__ == "__main__":
    main()
