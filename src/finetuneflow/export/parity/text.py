"""Before any weight: do both sides read the same tokens, and end at the same ones?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetuneflow.errors import ModelError
from finetuneflow.export.parity.file import FileFacts, configured_ends, rope_base_of, turn_end
from finetuneflow.export.parity.findings import Findings, around, first_unlike, shown
from finetuneflow.export.parity.sides import Sides
from finetuneflow.modeling.tokenize import end_token_ids, render, token_ids
from finetuneflow.schemas.export import ParityPrompt

SPACE = " "
"""Written by the file's template where transformers' tokenizer puts one before the first text only.

The token ids tell whether it does: with another tokenizer they are not the same.
"""


def compare_file(findings: Findings, model: Any, facts: FileFacts) -> None:
    """Vocabulary and rotary base, from the file's own fields: known before llama.cpp refuses the file.

    Args:
        findings: Where to tell.
        model: The trained model.
        facts: What the file says.
    """
    trained = model.config.get_text_config().vocab_size
    if facts.tokens != trained:
        findings.differ("vocabulary", served=facts.tokens, trained=trained)
        findings.fail("failed_vocabulary", served=facts.tokens, trained=trained)
    base = rope_base_of(model.config)
    if base is not None and abs(facts.rope_base - base) > 1e-6 * base:
        served, expected = f"{facts.rope_base:.0f}", f"{base:.0f}"
        findings.differ("rope_base", served=served, trained=expected)
        findings.fail("failed_rope_base", served=served, trained=expected)


def compare_prompts(sides: Sides) -> str:
    """Every prompt as both chat templates write it, and its token ids.

    Returns:
        What the file's template writes first in place of the tokenizer: a space, or nothing.
    """
    lead = ""
    unlike_template = unlike_ids = 0
    for prompt in sides.asked:
        try:
            served = sides.llama.render(prompt.messages)
        except ModelError as error:
            prompt.rendered_equal = prompt.ids_equal = False
            sides.findings.differ("template_refused", reason=error.message, **sides.told(prompt))
            unlike_template += 1
            continue
        lead = _compare_rendered(sides, prompt, served) or lead
        ids = sides.llama.tokenize(served, add_special=True)
        prompt.ids_equal = ids == prompt.ids
        if prompt.rendered_equal and not prompt.ids_equal:
            _differ_ids(sides, "prompt_ids", ids, prompt.ids, **sides.told(prompt))
        unlike_template += not prompt.rendered_equal
        unlike_ids += not prompt.ids_equal
    total = len(sides.asked)
    if unlike_template:
        sides.findings.fail("failed_template", count=unlike_template, total=total)
    if unlike_ids:
        sides.findings.fail("failed_prompt_ids", count=unlike_ids, total=total)
    return lead


def _compare_rendered(sides: Sides, prompt: ParityPrompt, served: str) -> str:
    bos = sides.tokenizer.bos_token or ""
    if prompt.rendered.startswith(bos) and not served.startswith(bos):
        # Where the file asks for it, the server strips what the template wrote and adds it as a token.
        served = bos + served
    if served == SPACE + prompt.rendered:
        return SPACE
    prompt.rendered_equal = served == prompt.rendered
    if not prompt.rendered_equal:
        position = first_unlike(served, prompt.rendered)
        cuts = {"served": around(served, position), "trained": around(prompt.rendered, position)}
        sides.findings.differ("template", position=position, **cuts, **sides.told(prompt))
    return ""


def compare_texts(sides: Sides, texts: Sequence[str], lead: str) -> None:
    """Token ids of texts, each as the user's words.

    Alone they would not do: at the head of a text tokenizers may put a space that no chat ever has.
    """
    unlike = 0
    for text in texts:
        written = render(sides.tokenizer, [{"role": "user", "content": text}], prompt=True)
        served, trained = sides.llama.tokenize(lead + written), token_ids(sides.tokenizer, written)
        if served != trained:
            unlike += 1
            _differ_ids(sides, "text_ids", served, trained, text=shown(text))
    if unlike:
        sides.findings.fail("failed_text_ids", count=unlike, total=len(texts))


def _differ_ids(sides: Sides, key: str, served: list[int], trained: list[int], **told: Any) -> None:
    position = first_unlike(served, trained)
    bos = sides.tokenizer.bos_token_id
    added = sides.tokenizer.added_tokens_decoder
    if position == 0 and bos is not None and bos in (served[:1] + trained[:1]):
        cause = "bos"
    elif position < len(trained) and trained[position] in added:
        cause = "added_tokens"
    else:
        cause = "tokenizer"
    tokens = {"served": sides.token_at(served, position), "trained": sides.token_at(trained, position)}
    sides.findings.differ(key, position=position, cause=cause, **tokens, **told)


def compare_end_tokens(sides: Sides, facts: FileFacts) -> None:
    """What ends an answer in training must end it in llama.cpp, and the file must name nothing else."""
    ends = list(dict.fromkeys([*turn_end(sides.tokenizer), *end_token_ids(sides.tokenizer)]))
    trained = ", ".join(map(sides.token, ends))
    for token in ends:
        if not sides.llama.ends_answer(token):
            sides.findings.differ("end_token", token=sides.token(token))
            sides.findings.fail("failed_end", served="-", trained=trained)
    known = {*ends, *configured_ends(sides.loaded.model)}
    strange = ", ".join(sides.token(token) for token in facts.end_tokens if token not in known)
    if not facts.end_tokens:
        sides.findings.differ("end_unnamed", trained=trained)
        sides.findings.fail("failed_end", served="-", trained=trained)
    elif strange:
        sides.findings.differ("end_other", served=strange, trained=trained)
        sides.findings.fail("failed_end", served=strange, trained=trained)
