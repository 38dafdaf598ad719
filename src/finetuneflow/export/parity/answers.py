"""Greedy answers of both sides: the same text, and the same score on the test questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch

from finetuneflow.errors import ModelError
from finetuneflow.export.parity.cause import trained_log_probabilities
from finetuneflow.export.parity.findings import first_unlike, shown
from finetuneflow.export.parity.sides import Sides
from finetuneflow.metrics import exact_match
from finetuneflow.modeling.generate import GREEDY, Generated, generate
from finetuneflow.modeling.llama_cpp import Completion
from finetuneflow.modeling.tokenize import end_token_ids
from finetuneflow.schemas.export import ParityPrompt

BATCH = 48
"""Of about the same length: test questions first, then what was generated."""
LONG_TOKENS = 256
"""Longer prompts are answered one by one: in a batch, all others would be padded to their length."""
HALF_CHARACTER = "\ufffd"


def compare_answers(
    sides: Sides,
    served: Sequence[Future[Completion]],
    *,
    scored: int,
    new_tokens: int,
    on_answer: Callable[[int], None],
) -> tuple[float, float] | None:
    """Mean metric of the trained and of the served answers; None when nothing is scored.

    Args:
        sides: Both models, and what to ask.
        served: Answer of the served model to each prompt, under way.
        scored: How many of the first prompts have an answer to be scored.
        new_tokens: Longest answer.
        on_answer: Called with the number of answers that the trained model has given.
    """
    trained = _trained_answers(sides, new_tokens, on_answer)
    parted: set[int] = set()
    lengths = tokens = 0
    for index, (prompt, ours, future) in enumerate(zip(sides.asked, trained, served, strict=True)):
        prompt.trained_text, prompt.continuation_equal = ours.text, False
        try:
            theirs = future.result()
        except ModelError:
            if prompt.rendered_equal:
                raise
            continue  # the file's template refuses the conversation, as was said before
        prompt.served_text = theirs.text.strip()
        if theirs.prompt_tokens != len(prompt.ids):
            lengths += 1
            counts = {"served": str(theirs.prompt_tokens), "trained": str(len(prompt.ids))}
            sides.findings.differ("prompt_length", **counts, **sides.told(prompt))
        same_end = ours.stopped == theirs.stopped
        prompt.continuation_equal = same_end and prompt.trained_text == prompt.served_text
        compared, parts = ours.new_tokens, False
        if not prompt.continuation_equal:
            compared, parts = _parting(sides, prompt, theirs, new_tokens)
        tokens += compared
        if parts:
            parted.add(index)
    total = len(sides.asked)
    if lengths:
        sides.findings.fail("failed_prompt_length", count=lengths, total=total)
    if len(parted) > (1 - sides.thresholds.top1_agreement) * tokens:
        sides.findings.fail("failed_continuations", count=len(parted), total=total, tokens=tokens)
    return _compare_scores(sides, sides.asked[:scored], parted) if scored else None


def _trained_answers(sides: Sides, new_tokens: int, on_answer: Callable[[int], None]) -> list[Generated]:
    order: dict[bool, list[int]] = {False: [], True: []}
    for index, prompt in enumerate(sides.asked):
        order[len(prompt.ids) > LONG_TOKENS].append(index)
    answers: dict[int, Generated] = {}
    for long, indices in order.items():
        step = 1 if long else BATCH
        for start in range(0, len(indices), step):
            batch = indices[start : start + step]
            made = generate(
                sides.loaded,
                [sides.asked[index].messages for index in batch],
                max_new_tokens=new_tokens,
                batch_size=step,
            )
            answers |= dict(zip(batch, made, strict=True))
            on_answer(len(answers))
    return [answers[index] for index in range(len(sides.asked))]


def _parting(sides: Sides, prompt: ParityPrompt, chat: Completion, new_tokens: int) -> tuple[int, bool]:
    """Tokens compared, and whether two unequal answers part where the trained model is sure.

    What is no matter of likelihood fails at once: other text or another end of the same tokens.
    """
    trained = _greedy_ids(sides, prompt.ids, new_tokens)
    served = sides.llama.complete(prompt.ids, max_new_tokens=new_tokens).ids
    told = sides.told(prompt)
    position = first_unlike(trained, served)
    compared = min(position + 1, len(trained))
    if trained == served:
        # Read anew: answers of a batch may have parted from this one at a tie.
        prompt.trained_text = sides.tokenizer.decode(trained, skip_special_tokens=True).strip()
        texts = [prompt.served_text, prompt.trained_text]
        same_text = texts[0] == texts[1] or HALF_CHARACTER in "".join(texts)
        same_end = chat.stopped == (trained[-1] in end_token_ids(sides.tokenizer))
        prompt.continuation_equal = same_text and same_end
        if prompt.continuation_equal or _tied(sides, prompt, trained, chat):
            return compared, False
        if same_text:
            counts = {"trained": str(len(trained)), "served": str(chat.new_tokens)}
            sides.findings.refuse("other_length", cause="end_token", **counts, **told)
        elif prompt.ids_equal:
            sides.findings.refuse("other_text", served=shown(texts[0]), trained=shown(texts[1]), **told)
        return compared, True
    if position >= min(len(trained), len(served)):
        counts = {"trained": str(len(trained)), "served": str(len(served))}
        sides.findings.refuse("other_length", cause="end_token", **counts, **told)
        return compared, True
    context = [*prompt.ids, *trained[:position]]
    if sides.same_choice(trained_log_probabilities(sides.loaded, context), served[position]):
        return compared, False
    if sides.findings.first_difference is None:
        tokens = {"served": sides.token(served[position]), "trained": sides.token(trained[position])}
        cause = sides.cause(context)
        sides.findings.differ("parted", position=position, cause=cause, **tokens, **told)
    return compared, True


def _tied(sides: Sides, prompt: ParityPrompt, trained: list[int], chat: Completion) -> bool:
    """Whether a chat parts at a tie although the same prompt alone was answered with the trained ids."""
    ids = sides.llama.tokenize(chat.text)
    position = first_unlike(trained, ids)
    if position == len(trained):
        return False
    chosen = ids[position : position + 1] or (end_token_ids(sides.tokenizer) if chat.stopped else [])
    likely = trained_log_probabilities(sides.loaded, [*prompt.ids, *trained[:position]])
    return any(token != trained[position] and sides.same_choice(likely, token) for token in chosen)


def _greedy_ids(sides: Sides, ids: Sequence[int], new_tokens: int) -> list[int]:
    row = torch.tensor([list(ids)], device=sides.loaded.device)
    with torch.inference_mode():
        answer = sides.loaded.model.generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=new_tokens,
            **GREEDY,
            eos_token_id=end_token_ids(sides.tokenizer),
            pad_token_id=sides.tokenizer.pad_token_id,
        )
    new: list[int] = answer[0, len(ids) :].tolist()
    return new


def _compare_scores(
    sides: Sides, scored: Sequence[ParityPrompt], parted: set[int]
) -> tuple[float, float] | None:
    ours = [exact_match(prompt.trained_text, prompt.expected or "") for prompt in scored]
    theirs = [exact_match(prompt.served_text, prompt.expected or "") for prompt in scored]
    trained, served = sum(ours) / len(scored), sum(theirs) / len(scored)
    lost = sum(ours[index] - theirs[index] for index in parted if index < len(scored))
    limit = sides.thresholds.score_difference
    if abs(lost) / len(scored) > limit:
        values = {"served": f"{served:.1%}", "trained": f"{trained:.1%}", "limit": f"{limit:.1%}"}
        sides.findings.fail("failed_score", metric="exact match", **values)
    return trained, served
