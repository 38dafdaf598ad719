"""Examples to token ids and labels.

The prompt is rendered and tokenised exactly as it will be when the model is asked, and the answer is
tokenised apart: so training never sees a token boundary that generation cannot reproduce.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from finetuneflow.schemas.example import Example

IGNORED = -100
"""Label of a token without loss."""
BEGINNING = "{{ bos_token }}"
"""Before the plain template, for models that have read every text after this token."""


@dataclass(frozen=True)
class Encoded:
    """Token ids (T) and labels (T), `IGNORED` where there is no loss."""

    input_ids: list[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def supervised(self) -> int:
        """Number of tokens with loss: the first token of a row is never predicted."""
        return sum(label != IGNORED for label in self.labels[1:])


def render(tokenizer: Any, messages: list[dict[str, str]], *, prompt: bool) -> str:
    """The conversation as text through the model's own chat template, or a plain one when it has none.

    Args:
        tokenizer: A transformers tokenizer.
        messages: Role and content of each turn.
        prompt: True to end with the opening of an assistant turn.
    """
    text: str = tokenizer.apply_chat_template(
        messages, chat_template=chat_template(tokenizer), tokenize=False, add_generation_prompt=prompt
    )
    return text


def chat_template(tokenizer: Any) -> Any:
    """The model's own chat template, or the plain one when it has none."""
    if tokenizer.chat_template:
        return tokenizer.chat_template
    first = tokenizer.bos_token_id
    return plain_template(begins=first is not None and tokenizer("a")["input_ids"][:1] == [first])


def plain_template(*, begins: bool) -> str:
    """The chat template for base models that come without one.

    Args:
        begins: Whether the tokenizer puts a beginning-of-sequence token before a text.
    """
    file = resources.files("finetuneflow.assets") / "prompts" / "plain_chat.jinja"
    return (BEGINNING if begins else "") + file.read_text(encoding="utf-8")


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a rendered text: the template already wrote the special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_prompt(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Ids of a conversation up to the opening of the assistant's turn."""
    return token_ids(tokenizer, render(tokenizer, messages, prompt=True))


def encode(tokenizer: Any, example: Example, *, completion_only: bool = True) -> Encoded:
    """Token ids and labels of a conversation; loss on each assistant turn and its end token.

    Args:
        tokenizer: A transformers tokenizer.
        example: An example with messages.
        completion_only: False puts the loss on every token.
    """
    messages = [{"role": message.role, "content": message.content} for message in example.messages]
    input_ids: list[int] = []
    labels: list[int] = []
    rendered = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:index], prompt=True)
        whole = render(tokenizer, messages[: index + 1], prompt=False)
        if index + 1 < len(messages):
            whole = _continued(tokenizer, whole, render(tokenizer, messages[: index + 2], prompt=True))
        if not prompt.startswith(rendered) or not whole.startswith(prompt):
            # The template rewrites earlier turns (drops reasoning, say): only the last answer can be learnt.
            input_ids, labels, rendered = [], [], ""
            if not whole.startswith(prompt):
                continue
        context = token_ids(tokenizer, prompt[len(rendered) :])
        answer = token_ids(tokenizer, whole[len(prompt) :])
        end = _through_end_token(tokenizer, answer)
        input_ids += context + answer
        labels += [IGNORED] * len(context) + answer[:end] + [IGNORED] * (len(answer) - end)
        rendered = whole
    return Encoded(input_ids, labels if completion_only else list(input_ids))


def _continued(tokenizer: Any, whole: str, longer: str) -> str:
    """A conversation as it stands in a longer one: without the last end token (Phi-3)."""
    shorter = whole.removesuffix(tokenizer.eos_token or "")
    return shorter if longer.startswith(shorter) and not longer.startswith(whole) else whole


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens: those with a role, and those that chat templates write (`<end_of_turn>`)."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}


def _through_end_token(tokenizer: Any, answer: list[int]) -> int:
    """Length of the answer up to and with its end token: what the template adds after it is not learnt."""
    special = special_ids(tokenizer)
    last = max(
        (position for position, token in enumerate(answer) if token in special), default=len(answer) - 1
    )
    return last + 1


def end_token_ids(tokenizer: Any) -> list[int]:
    """Ids that end an assistant's turn: the end-of-sequence token and the one the chat template writes."""
    rendered = render(
        tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], prompt=False
    )
    tail = token_ids(tokenizer, rendered[rendered.rfind("b") + 1 :])
    special = special_ids(tokenizer)
    ends = {token for token in tail[:1] if token in special}
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    return sorted(ends)
