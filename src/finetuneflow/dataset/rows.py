"""One row of a dataset file to one example and back, for every format that we speak."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from finetuneflow.schemas.dataset import DatasetFormat
from finetuneflow.schemas.example import Example

COLUMNS: dict[DatasetFormat, tuple[tuple[str, ...], ...]] = {
    "openai": (("messages",),),
    "sharegpt": (("conversations", "conversation"),),
    "alpaca": (("instruction",), ("output", "response")),
    "prompt_completion": (("prompt", "question", "query"), ("completion", "response", "answer")),
    "text_label": (("text", "sentence"), ("label_text", "label", "category", "intent")),
}
"""Format → its required columns, each with the names that it goes by; the first name is the one we write.
In the order in which formats are tried."""

OPTIONAL: dict[DatasetFormat, tuple[str, ...]] = {
    "openai": ("metadata",),
    "sharegpt": ("system",),
    "alpaca": ("input", "context", "system", "history"),
    "prompt_completion": ("system",),
    "text_label": (),
}
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}

REMEDIES = {
    "invalid_json": "write one JSON object per line, with double quotes, and no comma after the last item",
    "invalid_csv": "close every double quote, and double the ones inside a cell",
    "ragged_row": "quote cells that contain the separator, and give every row as many cells as the header",
    "not_an_object": 'wrap the row in braces: {"messages": [...]}',
    "missing_keys": "give every row the same keys, or convert the other rows into a file of their own",
    "wrong_type": "make it text",
    "unknown_role": "use the roles system, user and assistant (ShareGPT: system, human, gpt)",
    "no_user_turn": "add the question as a user turn",
    "no_assistant_turn": "add the answer as an assistant turn",
    "empty_question": "write the question, or delete the row",
    "empty_answer": "write the answer, or delete the row",
    "empty_label": "write the label, or delete the row",
    "nul_bytes": "remove the NUL characters; they usually come from a damaged or binary export",
    "tool_calls": "remove the turns with tool calls: only text turns can be trained on",
}
"""Reason → what to do about it."""

Turns = list[dict[str, str]]


class RowProblem(Exception):
    """A row that cannot become an example: `reason` is a key of `REMEDIES`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.remedy = REMEDIES[reason]


def detect_format(keys: Iterable[str]) -> DatasetFormat | None:
    """The format whose columns are all among `keys`, or None."""
    present = set(keys)
    for name, columns in COLUMNS.items():
        if all(present.intersection(names) for names in columns):
            return name
    return None


def known_keys(format: DatasetFormat) -> set[str]:
    """Every key that reading the format looks at."""
    return {name for names in COLUMNS[format] for name in names} | set(OPTIONAL[format])


def turns_from_row(row: Mapping[str, Any], format: DatasetFormat, ignored: set[str]) -> Turns:
    """The turns of a chat row, with our role names; `ignored` collects keys of turns that were not looked at.

    Raises:
        RowProblem: the row has no usable conversation.
    """
    first = _column(row, format, 0)
    if format in ("openai", "sharegpt"):
        turns = _turns(row[first], first, ignored)
    elif format == "alpaca":
        turns = _alpaca_turns(row)
    else:
        turns = _pair_turns(row, first, _column(row, format, 1), ignored)
    system = _text(row, "system") if format != "openai" else ""
    if system:
        turns.insert(0, {"role": "system", "content": system})
    check_turns(turns)
    return turns


def label_from_row(row: Mapping[str, Any]) -> tuple[str, str]:
    """Text and label of a classification row; numbers and booleans are taken as label names.

    Raises:
        RowProblem: one of them is missing, empty, or not text.
    """
    text = _text(row, _column(row, "text_label", 0))
    column = _column(row, "text_label", 1)
    value = row[column]
    if isinstance(value, bool):
        value = str(value).lower()
    label = str(value) if isinstance(value, int) else _text(row, column)
    if "\0" in text or "\0" in label:
        raise RowProblem("nul_bytes", "there is a NUL character in the row")
    if not text.strip():
        raise RowProblem("empty_question", f"`{_column(row, 'text_label', 0)}` is empty")
    if not label.strip():
        raise RowProblem("empty_label", f"`{column}` is empty")
    return text, label


def check_turns(turns: Turns) -> None:
    """Refuses a conversation that nothing can be learnt from.

    Raises:
        RowProblem: NUL characters, a side that never speaks, or an empty turn.
    """
    spoken = set()
    for number, turn in enumerate(turns, start=1):
        role, content = turn["role"], turn["content"]
        if "\0" in content:
            raise RowProblem("nul_bytes", f"there is a NUL character in turn {number}")
        spoken.add(role)
        if role != "system" and not content.strip():
            side = "answer" if role == "assistant" else "question"
            raise RowProblem(f"empty_{side}", f"the {side} in turn {number} is empty")
    if "user" not in spoken:
        raise RowProblem("no_user_turn", "nobody asks: there is no user turn")
    if "assistant" not in spoken:
        raise RowProblem("no_assistant_turn", "nobody answers: there is no assistant turn")


def row_from_example(example: Example, format: DatasetFormat) -> dict[str, Any]:
    """An example as a row of the format, with the column names that we write.

    Raises:
        ValueError: the format cannot say what the example says; the text tells why.
    """
    if format == "text_label":
        if example.text is None or not example.label:
            raise ValueError("it is a conversation" if example.messages else "it has no label")
        return {"text": example.text, "label": example.label}
    if not example.messages:
        raise ValueError("it is a text with a label, not a conversation")
    if format == "openai":
        return {"messages": [{"role": turn.role, "content": turn.content} for turn in example.messages]}
    if format == "sharegpt":
        turns = [{"from": _SHAREGPT_ROLES[turn.role], "value": turn.content} for turn in example.messages]
        return {"conversations": turns}
    system, pairs = _pairs(example)
    if format == "alpaca":
        row: dict[str, Any] = {"instruction": pairs[-1][0], "input": "", "output": pairs[-1][1]}
        if pairs[:-1]:
            row["history"] = pairs[:-1]
    elif len(pairs) > 1:
        raise ValueError("it has more than one question")
    else:
        row = {"prompt": pairs[0][0], "completion": pairs[0][1]}
    return {**row, "system": system} if system else row


def _pairs(example: Example) -> tuple[str, list[list[str]]]:
    turns = list(example.messages)
    system = turns.pop(0).content if turns[0].role == "system" else ""
    roles = [turn.role for turn in turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError("its turns are not question and answer in alternation")
    return system, [
        [question.content, answer.content] for question, answer in zip(turns[::2], turns[1::2], strict=True)
    ]


def _column(row: Mapping[str, Any], format: DatasetFormat, position: int) -> str:
    names = COLUMNS[format][position]
    for name in names:
        if name in row:
            return name
    found = ", ".join(f"`{key}`" for key in list(row)[:6]) or "none"
    raise RowProblem("missing_keys", f"no `{names[0]}` (keys found: {found})")


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowProblem("wrong_type", f"`{key}` is {_kind(value)}, not text")
    return value


def _decoded(value: object, column: str) -> object:
    """A list held as JSON text, as CSV cells hold it."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise RowProblem("invalid_json", f"`{column}` is text that is not JSON: {error}") from error


def _turns(value: object, column: str, ignored: set[str]) -> Turns:
    value = _decoded(value, column)
    if not isinstance(value, list):
        raise RowProblem("wrong_type", f"`{column}` is {_kind(value)}, not a list of turns")
    return [_turn(item, number, column, ignored) for number, item in enumerate(value, start=1)]


def _turn(item: object, number: int, column: str, ignored: set[str]) -> dict[str, str]:
    if not isinstance(item, dict):
        raise RowProblem("wrong_type", f"turn {number} is {_kind(item)}, not an object")
    role_key, content_key = ("from", "value") if "from" in item else ("role", "content")
    for key in (role_key, content_key):
        if key not in item and not (key == content_key and item.get("tool_calls")):
            raise RowProblem("missing_keys", f"turn {number} has no `{key}`")
    given = item[role_key]
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise RowProblem("unknown_role", f"turn {number} has the role {given!r}")
    if item.get("tool_calls") or item.get("function_call"):
        raise RowProblem("tool_calls", f"turn {number} calls a tool")
    content = _content(item[content_key], number)
    ignored.update(f"{column}[].{key}" for key in item if key not in (role_key, content_key))
    return {"role": role, "content": content}


def _content(value: object, number: int) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in value]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
        raise RowProblem("wrong_type", f"turn {number} holds something other than text")
    if not isinstance(value, str):
        raise RowProblem("wrong_type", f"the content of turn {number} is {_kind(value)}, not text")
    return value


def _alpaca_turns(row: Mapping[str, Any]) -> Turns:
    output = _column(row, "alpaca", 1)
    history = _decoded(row.get("history") or [], "history")
    turns: Turns = []
    for pair in history if isinstance(history, list) else [history]:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise RowProblem("wrong_type", "`history` is not a list of [question, answer]")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    context = _text(row, "input") or _text(row, "context")
    instruction = _text(row, "instruction")
    question = f"{instruction}\n\n{context}" if context else instruction
    return [
        *turns,
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(row, output)},
    ]


def _pair_turns(row: Mapping[str, Any], prompt: str, completion: str, ignored: set[str]) -> Turns:
    """Prompt and completion are texts, or lists of turns as TRL has them."""
    turns: Turns = []
    for column, role in ((prompt, "user"), (completion, "assistant")):
        if isinstance(row[column], list):
            turns += _turns(row[column], column, ignored)
        else:
            turns.append({"role": role, "content": _text(row, column)})
    return turns


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}
    return kinds.get(type(value), "a number" if isinstance(value, float) else "null")
