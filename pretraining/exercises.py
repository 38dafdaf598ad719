"""Exercises with a known answer, without end from a seed: look up, copy, read, follow an instruction."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from questions import answer_field, ask_field, fill, noisy
from records import (
    Prose,
    Record,
    invent_name,
    invent_phrase,
    invent_records,
    invent_value,
    invent_word,
    wordings,
    write_record,
)

Message: TypeAlias = dict[str, str]

FRENCH_SHARE = 0.6


@dataclass(frozen=True)
class Exercise:
    """A conversation that ends with the answer.

    `value` is what a right answer must contain; `choices` is how many answers of that kind the
    prompt offers (0: guessing is hopeless), so that 1/choices is the level of chance.
    """

    family: str
    language: str
    messages: list[Message]
    value: str
    choices: int


def _say(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _frame(rng: random.Random, language: str, context: str, question: str) -> tuple[list[Message], bool]:
    """The context and the question as messages; True when it is the product's own retrieval prompt."""
    data, draw = wordings(), rng.random()
    if draw < 0.55:
        prompt = data["retrieval_prompt"][language].format(context=context, question=question)
        return [_say("user", prompt)], True
    if draw < 0.70:
        system = rng.choice(data["system_context"][language]).format(context=context)
        return [_say("system", system), _say("user", question)], False
    layout = rng.choice(data["other_layouts"][language])
    return [_say("user", layout.format(context=context, question=question))], False


def _instruct(rng: random.Random, language: str, messages: list[Message], retrieval: bool) -> bool:
    """Adds a system prompt now and then; returns whether the answer is to be a sentence.

    Without an instruction the retrieval prompt wants the value as written, other layouts mostly a sentence.
    """
    data, draw = wordings(), rng.random()
    if draw < 0.30:
        kind = "system_value" if draw < 0.15 else "system_sentence"
        line = rng.choice(data[kind][language])
        if messages[0]["role"] == "system":
            messages[0] = _say("system", f"{line}\n\n{messages[0]['content']}")
        else:
            messages.insert(0, _say("system", line))
        return kind == "system_sentence"
    if draw < 0.40 and messages[0]["role"] != "system":
        messages.insert(0, _say("system", rng.choice(data["system_neutral"][language])))
    return not retrieval and rng.random() < 0.6


def _context(rng: random.Random, records: list[Record], prose: Prose) -> str:
    style = rng.choices(["lines", "heading", "bullets", "json", "prose"], [50, 8, 14, 8, 20])[0]
    passages = [write_record(rng, record, style) for record in records]
    if len(records) < 3 and rng.random() < 0.15:
        heading, paragraph = rng.choice(prose[records[0].language])
        passages.insert(rng.randint(0, len(passages)), f"# {heading}\n{paragraph[:300]}")
    return "\n\n".join(passages)


def look_up(rng: random.Random, language: str, prose: Prose) -> Exercise:
    """One question, often with a second and third one on the same records."""
    records = invent_records(rng, prose, language, rng.choice([1, 1, 2, 2, 3, 3, 4]))
    record = rng.choice(records)
    field = rng.choice(list(record.values))
    messages, retrieval = _frame(rng, language, _context(rng, records, prose), ask_field(rng, record, field))
    sentence = _instruct(rng, language, messages, retrieval)
    messages.append(_say("assistant", answer_field(rng, record, field, sentence)))
    family = "look-up"
    for _ in range(rng.choice([0, 0, 1, 3, 5, 7, 9])):
        if rng.random() < 0.4:
            others = [name for name in record.values if name != field and not name.startswith("generic/")]
            if not others:
                break
            field = rng.choice(others)
            pattern = rng.choice(wordings()["follow_ups"][language])
            question = pattern.format(p=wordings()["fields"][field]["possessive"][language])
        else:
            record = rng.choice(records)
            field = rng.choice(list(record.values))
            question = ask_field(rng, record, field)
        messages.append(_say("user", question))
        messages.append(_say("assistant", answer_field(rng, record, field, sentence)))
        family = "follow-up"
    return Exercise(family, language, messages, record.values[field], sum(len(one.values) for one in records))


def retrieval_exercise(
    rng: random.Random, records: list[Record], record: Record, field: str, question: str
) -> Exercise:
    """A given question in the product's retrieval prompt; the answer is the value as written."""
    context = "\n\n".join(write_record(rng, one, "lines") for one in records)
    prompt = wordings()["retrieval_prompt"][record.language].format(context=context, question=question)
    messages = [_say("user", prompt), _say("assistant", record.values[field])]
    choices = sum(len(one.values) for one in records)
    return Exercise("look-up, unseen wording", record.language, messages, record.values[field], choices)


def negative(rng: random.Random, language: str, prose: Prose) -> Exercise:
    """A question that the context does not answer: unknown name, absent field, empty field, no context."""
    data = wordings()
    records = invent_records(rng, prose, language, rng.choice([1, 1, 2, 3]))
    record, kind = rng.choice(records), rng.random()
    field, name = rng.choice(list(data["fields"])), None
    if kind < 0.45:
        name = invent_name(rng)
    elif kind < 0.6:
        record.keys[field], record.values[field] = rng.choice(data["fields"][field]["keys"][language]), ""
    else:
        record.values.pop(field, None)
    question = ask_field(rng, record, field, name)
    if kind > 0.9:
        messages = [_say("user", question)]
    else:
        messages, _ = _frame(rng, language, _context(rng, records, prose), question)
        _instruct(rng, language, messages, False)
    options = data["unknown"][language]
    answer = options[0] if rng.random() < 0.6 else rng.choice(options)
    return Exercise("not in context", language, [*messages, _say("assistant", answer)], answer, 0)


def _tokenish(rng: random.Random, prose: Prose, language: str) -> str:
    draw = rng.random()
    if draw < 0.3:
        return invent_name(rng)
    if draw < 0.5:
        return str(rng.randrange(10 ** rng.randint(1, 5)))
    if draw < 0.7:
        return invent_word(rng, 2)
    return invent_phrase(rng, prose, language, 3)


def recall(rng: random.Random, language: str, prose: Prose) -> Exercise:
    """Pairs of random keys and values, and several questions on them."""
    text = wordings()["copying"][language]
    pairs: dict[str, str] = {}
    for _ in range(rng.randint(3, 12)):
        pairs[_tokenish(rng, prose, language)] = _tokenish(rng, prose, language)
    mark = rng.choice([" : ", ": ", " = ", " -> ", "\t"])
    line = rng.choice(["\n", "\n", "\n- ", "; "])
    prompt = rng.choice(text["pairs_intro"]) + line.join(
        f"{key}{mark}{value}" for key, value in pairs.items()
    )
    messages, key, answer = [], "", ""
    backward = rng.random() < 0.2
    for turn in range(rng.randint(1, 10)):
        key = rng.choice(list(pairs))
        answer = key if backward else pairs[key]
        ask = rng.choice(text["pairs_back" if backward else "pairs_ask"]).format(k=key, v=pairs[key])
        messages.append(_say("user", f"{prompt}\n\n{ask}" if turn == 0 else ask))
        messages.append(_say("assistant", answer))
    return Exercise("key to value", language, messages, answer, len(pairs))


def copying(rng: random.Random, language: str, prose: Prose) -> Exercise:
    """Repeat, first or last word, nth item, complete what was begun."""
    text = wordings()["copying"][language]
    kind = rng.choice(["repeat"] * 4 + ["first_word", "last_word", "nth", "complete", "complete"])
    words = rng.choice(prose[language])[1].split()
    start = rng.randrange(max(1, len(words) - 8))
    words = words[start : start + rng.randint(3, 40 if kind in ("repeat", "complete") else 12)]
    if rng.random() < 0.4:
        words = [_tokenish(rng, prose, language) for _ in range(rng.randint(2, 10))]
        words = " ".join(words).split()
    said, choices = " ".join(words), 0
    if kind == "nth":
        items = [_tokenish(rng, prose, language) for _ in range(rng.randint(3, 7))]
        index, choices = rng.randrange(len(items)), len(items)
        mark = rng.choice(["- ", "* ", "", "{}. "])
        listed = "\n".join(mark.format(number + 1) + item for number, item in enumerate(items))
        prompt, answer = rng.choice(text[kind]).format(i=index + 1, l=listed), items[index]
    elif kind == "complete":
        cut = rng.randint(1, max(1, len(words) - 1))
        prompt = rng.choice(text[kind]).format(t=said, s=" ".join(words[:cut]))
        answer = " ".join(words[cut:]) or words[-1]
    else:
        prompt = rng.choice(text[kind]).format(t=said)
        answer = {"repeat": said, "first_word": words[0], "last_word": words[-1]}[kind]
        choices = 0 if kind == "repeat" else len(words)
    return Exercise("copy", language, [_say("user", prompt), _say("assistant", answer)], answer, choices)


def document(rng: random.Random, language: str, prose: Prose) -> Exercise:
    """Questions on one to three passages of real documentation."""
    asks = wordings()["documents"][language]
    chosen = {
        heading: paragraph for heading, paragraph in rng.sample(prose[language], rng.choice([1, 1, 2, 2, 3]))
    }
    chosen = {heading: " ".join(text.split()[:90]) for heading, text in chosen.items()}
    context = "\n\n".join(f"# {heading}\n{text}" for heading, text in chosen.items())
    heading = rng.choice(list(chosen))
    sentences = chosen[heading].split(". ")
    sentence = rng.choice(sentences).rstrip(".")
    words = sentence.split()
    kind = rng.choices(["section", "after", "title", "cloze", "which"], [30, 25, 10, 15, 20])[0]
    if len(words) < 5 or (kind == "title" and len(chosen) > 1):
        kind = "section"
    choices = 0
    if kind == "section":
        question, answer = rng.choice(asks[kind]).format(h=heading), sentences[0].rstrip(".") + "."
        choices = len(chosen)
    elif kind == "after":
        cut = rng.randint(3, max(3, len(words) - 2))
        question, answer = rng.choice(asks[kind]).format(s=" ".join(words[:cut])), " ".join(words[cut:])
    elif kind == "cloze":
        place = rng.randrange(1, len(words))
        answer = words[place].strip(",;:()")
        question = rng.choice(asks[kind]).format(
            s=" ".join([*words[:place], "___", *words[place + 1 :]][:24])
        )
        if place > 22 or not answer:
            return document(rng, language, prose)
    else:
        excerpt = " ".join(words[: rng.randint(4, 9)])
        question, answer, choices = rng.choice(asks[kind]).format(s=excerpt), heading, len(chosen)
    messages, _ = _frame(rng, language, context, noisy(rng, question) if kind != "after" else question)
    if rng.random() < 0.1 and messages[0]["role"] == "user":
        messages.insert(0, _say("system", rng.choice(wordings()["system_neutral"][language])))
    return Exercise("document", language, [*messages, _say("assistant", answer)], answer, choices)


def compare_records(rng: random.Random, language: str, prose: Prose) -> Exercise:
    """Same field in two records? Which records have this status? Which records are there?"""
    text = wordings()["instructions"][language]
    records = invent_records(rng, prose, language, rng.choice([2, 3, 4]))
    field = rng.choice(["status", "status", "language", "licence", "version"])
    options = [str(rng.choice(wordings()["values"]["status"][language])) for _ in range(2)]
    for record in records:
        record.keys[field] = wordings()["fields"][field]["keys"][language][0]
        record.values[field] = record.values.get(field) or invent_value(
            rng, prose, language, record.name, field
        )
        if field == "status" or len(record.values) == 1:
            record.values[field] = rng.choice(options)
    kind, choices = rng.choice(["same", "with_status", "list_names"]), 0
    if kind == "same":
        one, two = rng.sample(records, 2)
        if rng.random() < 0.5:
            two.values[field] = one.values[field]
        question = rng.choice(text["same"]).format(a=one.name, b=two.name, x=text["same_what"][field])
        same = one.values[field] == two.values[field]
        pattern = text["same_yes" if same else "same_no"]
        answer = pattern.format(a=one.name, b=two.name, v=one.values[field], w=two.values[field])
        choices = 2
    elif kind == "with_status":
        wanted = rng.choice(records).values[field] if field == "status" else rng.choice(options)
        question = rng.choice(text["with_status"]).format(v=wanted)
        found = [record.name for record in records if record.values.get("status") == wanted]
        answer, choices = ", ".join(found) or text["none"], 2 ** len(records)
    else:
        question, answer = rng.choice(text["list_names"]), ", ".join(record.name for record in records)
    messages, _ = _frame(rng, language, _context(rng, records, prose), question)
    return Exercise("compare", language, [*messages, _say("assistant", answer)], answer, choices)


def _text_task(rng: random.Random, language: str, prose: Prose, kind: str) -> tuple[str, str, int]:
    """Question, answer and choices of one task on a short text, a list or two digits."""
    text = wordings()["instructions"][language]
    said = invent_phrase(rng, prose, language, 5)
    items = [invent_phrase(rng, prose, language, 2).replace(",", "") for _ in range(rng.randint(2, 7))]
    parts = {"t": said, "l": "\n".join(f"- {item}" for item in items), "c": ", ".join(items)}
    if kind in ("add", "subtract"):
        low, high = sorted((rng.randrange(10), rng.randrange(10)))
        a, b = (high, low) if kind == "subtract" else (low, high)
        answer, choices = str(a + b if kind == "add" else a - b), 19 if kind == "add" else 10
        return rng.choice(text[kind]).format(a=a, b=b), answer, choices
    if kind == "to_other":
        other = "en" if language == "fr" else "fr"
        index = rng.randrange(len(wordings()["translations"]["fr"]))
        ask = rng.choice(text[kind]).format(t=wordings()["translations"][language][index])
        return ask, wordings()["translations"][other][index], len(wordings()["translations"]["fr"])
    answer = {
        "upper": said.upper(),
        "lower": said.lower(),
        "count": str(len(items)),
        "inline": ", ".join(items),
        "enumerate": "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1)),
    }[kind]
    return rng.choice(text[kind]).format(**parts), answer, 6 if kind == "count" else 0


def instruction(rng: random.Random, language: str, prose: Prose) -> Exercise:
    """A short task: case, counting, lists, one-digit sums, a few translations, small talk."""
    kinds = ["upper", "lower", "count", "enumerate", "inline", "add", "subtract", "to_other", "small talk"]
    kind = rng.choice(kinds)
    if kind == "small talk":
        talk = rng.choice(wordings()["small_talk"][language])
        question, answer, choices = rng.choice(talk["ask"]), talk["answer"], 6
    else:
        question, answer, choices = _text_task(rng, language, prose, kind)
    messages = [_say("user", question), _say("assistant", answer)]
    if rng.random() < 0.15:
        messages.insert(0, _say("system", rng.choice(wordings()["system_neutral"][language])))
    return Exercise("instruction", language, messages, answer, choices)


def rewording(rng: random.Random, language: str, prose: Prose) -> Exercise:
    """Which field does this question ask for, or the same question in its plainest form."""
    text, spec = wordings()["instructions"][language], wordings()["fields"]
    field = rng.choice(list(spec))
    key = spec[field]["keys"][language][0]
    record = Record(invent_name(rng), language, "", keys={field: key})
    question = fill(rng.choice(spec[field]["questions"][language]), language, n=record.name)
    plain = fill(text["simple"], language, k=key, n=record.name)
    kind = rng.choice(["field_of", "rephrase"])
    prompt, answer = rng.choice(text[kind]).format(q=question), key if kind == "field_of" else plain
    return Exercise(
        "field of question", language, [_say("user", prompt), _say("assistant", answer)], answer, len(spec)
    )


FAMILIES: dict[Callable[[random.Random, str, Prose], Exercise], tuple[float, float]] = {
    look_up: (16, 47),
    negative: (1, 8),
    recall: (32, 9),
    copying: (44, 10),
    document: (4, 13),
    compare_records: (1, 6),
    instruction: (1, 4),
    rewording: (1, 3),
}
"""Each family with its weight at the start of the training and once the full mix is reached."""


def make_exercise(rng: random.Random, prose: Prose, late: float = 1.0) -> Exercise:
    """One exercise; `late` (0 to 1) moves the weights from plain copying to the full mix."""
    weights = [first + (last - first) * min(1.0, late) for first, last in FAMILIES.values()]
    family = rng.choices(list(FAMILIES), weights)[0]
    return family(rng, "fr" if rng.random() < FRENCH_SHARE else "en", prose)
