"""Does the GGUF file answer like the trained model? Asked of llama.cpp itself, through the whole chat path.

Compared, each before what it causes: vocabulary and rotary base; prompts as both chat templates write them;
their token ids, and those of further texts; the end token; next-token log-probabilities of the whole
vocabulary by token id; greedy answers; the dataset's metric on both sides' answers.

What counts as the same:

- Log-probabilities below -50 are taken as -50. Tokens beyond the tokenizer (padding rows) are compared, too.
- Two tokens whose log-probabilities in the trained model are closer than the median difference allowed (and
  than 0.5) are a tie: which of them comes first is chance. A swap counts as agreement, and answers that part
  at a tie count neither as a failure nor in the difference of the metric. The figures of the result count
  every answer.
- Answers are read token by token, until they part: they may part, other than at ties, at the share of the
  tokens read so at which another most likely token is allowed.
- Answers of the same tokens must be the same text, but for those with half characters (U+FFFD), and one must
  not end where the other goes on with nothing; a single other one fails.
- After the longest prompt the largest difference itself must lie within the median allowed: what goes wrong
  at a distance shows nowhere else.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetuneflow.errors import ModelError
from finetuneflow.export.parity.answers import compare_answers
from finetuneflow.export.parity.cause import differences, trained_log_probabilities
from finetuneflow.export.parity.file import FileFacts, read_facts
from finetuneflow.export.parity.findings import Findings
from finetuneflow.export.parity.prompts import (
    generated_prompts,
    held_out_prompts,
    thresholds_of,
    tokenizer_texts,
)
from finetuneflow.export.parity.report import render_parity
from finetuneflow.export.parity.sides import Sides
from finetuneflow.export.parity.text import compare_end_tokens, compare_file, compare_prompts, compare_texts
from finetuneflow.modeling.llama_cpp import Llama, open_llama
from finetuneflow.modeling.load import LoadedModel, load_causal_lm
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.export import ExportConfig, ParityPrompt, ParityResult

__all__ = ["check_parity", "render_parity"]

CONTEXT_TOKENS = 4096
"""Context of models that name none."""
Progress = Callable[[int, int], None]


def check_parity(
    gguf: Path,
    *,
    reference: str,
    adapter: Path | None,
    config: ExportConfig,
    examples: Sequence[Example],
    on_progress: Progress | None = None,
) -> ParityResult:
    """The check of one file; a file that llama.cpp cannot load has failed it.

    Args:
        gguf: The file.
        reference: The trained model: its base, or the folder of a whole model.
        adapter: Folder of the adapter on that base.
        config: Number format, and how much to ask.
        examples: The test split.
        on_progress: Called with the number of steps done and of all.

    Raises:
        NotFoundError, ModelError: the trained model cannot be loaded.
        DependencyError: there is no llama.cpp to ask.
    """
    started = time.perf_counter()
    with _half_the_cores() as threads:
        loaded = load_causal_lm(reference, precision="fp32", adapter=adapter)
        check = _Check(config, on_progress)
        try:
            facts = read_facts(gguf)
            check.choose(loaded, facts, examples)
            compare_file(check.findings, loaded.model, facts)
            with open_llama(gguf, context_tokens=check.context_tokens, threads=threads) as llama:
                check.run(loaded, llama, facts, tokenizer_texts(examples))
        except ModelError as error:
            check.findings.differ("load", reason=error.message)
            check.findings.fail("load", reason=error.message)
    return check.result(time.perf_counter() - started)


@contextmanager
def _half_the_cores() -> Iterator[int]:
    """Both sides compute at the same time: waiting threads of one must not take the other's cores."""
    before = torch.get_num_threads()
    threads = max((int(os.environ.get("FTF_THREADS", "0")) or before) // 2, 1)
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


class _Check:
    """One check under way: what is asked, and what was found so far."""

    def __init__(self, config: ExportConfig, on_progress: Progress | None) -> None:
        self.config = config
        self.on_progress = on_progress
        self.thresholds = thresholds_of(config.quantization)
        self.findings = Findings(config.language)
        self.asked: list[ParityPrompt] = []
        self.compared: list[ParityPrompt] = []
        """Those whose log-probabilities are compared."""
        self.scored = 0
        self.new_tokens = 1
        self.context_tokens = 1
        self.runtime = "llama.cpp"
        self.texts = 0
        self.vocabulary = 0
        self.scores: tuple[float, float] | None = None

    def choose(self, loaded: LoadedModel, facts: FileFacts, examples: Sequence[Example]) -> None:
        """Chooses the prompts: as many as were asked for, of those that both sides have room for."""
        trained = getattr(loaded.model.config, "max_position_embeddings", None) or CONTEXT_TOKENS
        context = min(trained, facts.context_tokens or trained)
        held_out, compared = held_out_prompts(loaded.tokenizer, examples, self.config, context)
        generated = generated_prompts(loaded.tokenizer, self.config, context, compared)
        self.asked = [*held_out, *generated]
        self.compared = [*held_out[:compared], *generated]
        self.scored = min(len(held_out), self.config.parity_answers)
        longest = max((len(prompt.ids) for prompt in self.asked), default=1)
        self.new_tokens = max(min(self.config.max_new_tokens, context - longest), 1)
        self.context_tokens = longest + self.new_tokens + 1
        if len(self.compared) < self.config.parity_prompts:
            self.findings.fail("few_prompts", count=len(self.compared), wanted=self.config.parity_prompts)

    def run(self, loaded: LoadedModel, llama: Llama, facts: FileFacts, texts: Sequence[str]) -> None:
        """All comparisons, in the order of their causes: an earlier one explains the later ones."""
        self.runtime = llama.runtime
        sides = Sides(loaded, llama, self.config.quantization, self.thresholds, self.findings, self.asked)
        compare_texts(sides, texts, lead=compare_prompts(sides))
        self.texts = len(texts)
        compare_end_tokens(sides, facts)
        # llama.cpp answers while torch does; one at a time, for what shares a batch depends on chance.
        with ThreadPoolExecutor(1) as pool:
            rows = [pool.submit(llama.log_probabilities, prompt.ids) for prompt in self.compared]
            answers = [
                pool.submit(llama.chat, prompt.messages, max_new_tokens=self.new_tokens, reuse=False)
                for prompt in self.asked
            ]
            try:
                self._compare_log_probabilities(sides, rows)
                self.scores = compare_answers(
                    sides,
                    answers,
                    scored=self.scored,
                    new_tokens=self.new_tokens,
                    on_answer=lambda done: self._step(len(self.compared) + done),
                )
            finally:
                pool.shutdown(cancel_futures=True)

    def _step(self, done: int) -> None:
        if self.on_progress:
            self.on_progress(done, len(self.compared) + len(self.asked))

    def _compare_log_probabilities(self, sides: Sides, rows: Sequence[Future[np.ndarray]]) -> None:
        for index, (prompt, row) in enumerate(zip(self.compared, rows, strict=True)):
            trained, served = trained_log_probabilities(sides.loaded, prompt.ids), row.result()
            gap = differences(trained, served)
            self.vocabulary = len(gap)
            prompt.max_logprob_difference = float(gap.max())
            prompt.top1_equal = sides.same_choice(trained, int(served.argmax()))
            self._step(index + 1)
        agreement, asked_for = self.agreement, self.thresholds.top1_agreement
        low, over = agreement < asked_for, self.median > sides.tolerance
        if (low or over) and self.findings.first_difference is None:
            self._differ(sides)
        if low:
            self.findings.fail("failed_top1", value=f"{agreement:.1%}", limit=f"{asked_for:.0%}")
        if over:
            self.findings.fail("failed_median", value=f"{self.median:.3g}", limit=f"{sides.tolerance:g}")
        longest = max(self.compared, key=lambda prompt: len(prompt.ids), default=None)
        if longest and (longest.max_logprob_difference or 0) > sides.tolerance:
            self.findings.refuse("logprob", **_unlike(sides, longest))

    def _differ(self, sides: Sides) -> None:
        """Names the first prompt with another choice, else the first with too large a difference."""
        prompt = next((prompt for prompt in self.compared if not prompt.top1_equal), None)
        if prompt is None:
            over = (one for one in self.compared if (one.max_logprob_difference or 0) > sides.tolerance)
            self.findings.differ("logprob", **_unlike(sides, next(over)))
            return
        trained = trained_log_probabilities(sides.loaded, prompt.ids)
        served = sides.llama.log_probabilities(prompt.ids)
        best, chosen = int(trained.argmax()), int(served.argmax())
        choices = {
            "served": f"{sides.token(chosen)} ({served[chosen]:.3f})",
            "trained": f"{sides.token(best)} ({trained[best]:.3f})",
        }
        self.findings.differ("top1", cause=sides.cause(prompt.ids), **choices, **sides.told(prompt))

    @property
    def gaps(self) -> list[float]:
        """Largest difference of each prompt that was compared."""
        gaps = [prompt.max_logprob_difference for prompt in self.compared]
        return [gap for gap in gaps if gap is not None]

    @property
    def agreement(self) -> float:
        """Share of prompts with the same choice; 0 when none was compared."""
        compared = len(self.gaps)
        return sum(bool(prompt.top1_equal) for prompt in self.compared) / compared if compared else 0.0

    @property
    def median(self) -> float:
        """Median over the prompts of the largest difference."""
        return statistics.median(self.gaps) if self.gaps else 0.0

    def result(self, seconds: float) -> ParityResult:
        """What was found."""
        failures = self.findings.failures
        answered = [
            prompt.continuation_equal for prompt in self.asked if prompt.continuation_equal is not None
        ]
        trained, served = self.scores or (None, None)
        return ParityResult(
            passed=not failures and bool(self.gaps),
            quantization=self.config.quantization,
            prompts=len(self.gaps),
            top1_agreement=self.agreement,
            median_max_logprob_difference=self.median,
            max_logprob_difference=max(self.gaps, default=0.0),
            vocabulary=self.vocabulary,
            rendered_equal=sum(prompt.rendered_equal for prompt in self.compared),
            ids_equal=sum(prompt.ids_equal for prompt in self.compared),
            tokenizer_texts=self.texts,
            continuations=len(answered),
            continuations_equal=sum(answered),
            answers=self.scored if self.scores else 0,
            trained_score=trained,
            served_score=served,
            thresholds=self.thresholds,
            failures=failures,
            first_difference=(self.findings.first_difference or failures[0]) if failures else None,
            runtime=self.runtime,
            seconds=seconds,
            examples=self.asked,
        )


def _unlike(sides: Sides, prompt: ParityPrompt) -> dict[str, Any]:
    """The token after a prompt whose log-probabilities differ most, as the sentences name it."""
    trained = trained_log_probabilities(sides.loaded, prompt.ids)
    served = sides.llama.log_probabilities(prompt.ids)
    token = int(differences(trained, served).argmax())
    values = {"served": f"{served[token]:.3f}", "trained": f"{trained[token]:.3f}"}
    return {"token": sides.token(token), "cause": sides.cause(prompt.ids)} | values | sides.told(prompt)
