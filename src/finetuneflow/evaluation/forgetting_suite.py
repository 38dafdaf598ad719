"""The forgetting suite: 300 requests in seven families, English and French, each checkable by code.

Generated from `assets/forgetting` with a fixed seed, so that it needs no licence, no download and no judge,
and is the same on every machine (`suite_hash`). Whoever answers is asked through one function, so that a
local model, an exported file or a server can stand behind it.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, get_args

import yaml

from finetuneflow.evaluation.forgetting_checks import CHECKS
from finetuneflow.schemas.forgetting import Family, SuiteItem

Answer = Callable[[Sequence[list[dict[str, str]]]], list[str]]
"""Conversations to answers, in their order."""

SEED = 20261121
LANGUAGES = ("en", "fr")
FAMILIES: tuple[Family, ...] = get_args(Family)


def suite(families: Sequence[Family] = FAMILIES) -> list[SuiteItem]:
    """The requests of some families, in a fixed order."""
    return [item for item in _suite() if item.family in families]


def suite_hash(items: Sequence[SuiteItem]) -> str:
    """SHA-256 of requests and checks, in their order."""
    lines = (json.dumps(item.model_dump(), sort_keys=True, ensure_ascii=False) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def passes(item: SuiteItem, answer: str) -> bool:
    """Whether an answer does what the item asks for; one that repeats the request does not."""
    return item.messages[-1]["content"] not in answer and CHECKS[item.check](answer, item.value)


def ask(items: Sequence[SuiteItem], answer: Answer) -> list[bool]:
    """Which of the items an answerer gets right, in their order."""
    answers = answer([item.messages for item in items])
    return [passes(item, text) for item, text in zip(items, answers, strict=True)]


def neutral_prompts() -> list[list[dict[str, str]]]:
    """A hundred conversations of one everyday request each."""
    prompts = _asset("prompts.yaml")
    return [
        [{"role": "user", "content": wording.format(topic=topic)}]
        for language in LANGUAGES
        for wording in prompts[language]["wordings"]
        for topic in prompts[language]["topics"]
    ]


def fixed_texts() -> dict[str, str]:
    """Language to a page of prose that no model has been trained on."""
    return {language: str(text) for language, text in _asset("text.yaml").items()}


@cache
def _suite() -> tuple[SuiteItem, ...]:
    material = _asset("suite.yaml")
    items: list[SuiteItem] = []
    for family in FAMILIES:
        for language in LANGUAGES:
            rng = random.Random(f"{SEED}:{family}:{language}")  # noqa: S311 - a suite, not a secret
            templates = material[family][language]
            asked: dict[str, SuiteItem] = {}
            while len(asked) < material["items_per_language"][family]:
                number = len(asked)
                template = templates[number % len(templates)]
                drawn = _draw(rng, material, language, number)
                request = template["ask"].format_map(drawn)
                asked.setdefault(
                    request,
                    SuiteItem(
                        id=f"{family}-{language}-{number + 1:02d}",
                        family=family,
                        language=language,
                        messages=[{"role": "user", "content": request}],
                        check=template["check"],
                        value=template["value"].format_map(drawn),
                    ),
                )
            items += asked.values()
    return tuple(items)


def _draw(rng: random.Random, material: Mapping[str, Any], language: str, number: int) -> dict[str, str]:
    """Everything that a template may name, drawn anew; what comes from a list of its own goes by `number`."""
    pools = material["pools"][language]
    n, a, b, c, d = (rng.randint(*bounds) for bounds in ((3, 6), (40, 89), (11, 39), (6, 19), (3, 9)))
    nouns = rng.sample(pools["nouns"], 5)
    code = (
        "".join(rng.choices("ABCDEFGHKLMNPQRSTUVWXYZ", k=2))
        + f"-{rng.randint(100, 999)}-"
        + "".join(rng.choices("abcdefghkmnpqrstuvwxyz", k=3))
    )
    numbers = rng.sample(range(10, 99), 4)
    name, city = rng.choice(pools["names"]), rng.choice(pools["cities"])
    drawn = {
        "n": n, "a": a, "b": b, "c": c, "d": d, "two": rng.randint(2, 3), "few": rng.randint(5, 12),
        "sum": a + b, "product": c * d, "a_and_c": a + c,
        "name": name, "city": city, "code": code, "noun": nouns[0], "other": nouns[1],
        "words": " ".join(nouns), "comma_words": ", ".join(nouns[:n]),
        "noun_n_times": " ".join([nouns[0]] * n),
        "mixed_numbers": ", ".join(map(str, numbers)),
        "json_person": _json({"name": name, "city": city, "age": a}),
        "json_words": _json(nouns[:n]),
        "json_pairs": _json({nouns[0]: a, nouns[1]: b}),
        "json_nested": _json({"item": {"label": code, "sold": True}}),
        "json_sorted": _json(sorted(numbers)),
        "things": rng.choice(pools["things"]), "topic": rng.choice(pools["topics"]),
        "phrase": rng.choice(pools["phrases"]), "opening": rng.choice(pools["openings"]),
        "letter": rng.choice(pools["letters"]), "opposite": rng.choice(pools["opposites"]),
        "task": rng.choice(pools["tasks"]), "place": rng.choice(pools["places"]),
        "sentence": material["sentences"][number % len(material["sentences"])],
        "harmful": material["harmful"][language][number // 2 % len(material["harmful"][language])],
        "harmless": material["harmless"][language][number // 2 % len(material["harmless"][language])],
    }  # fmt: skip
    return {key: str(value) for key, value in drawn.items()}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _asset(name: str) -> dict[str, Any]:
    text = (resources.files("finetuneflow.assets") / "forgetting" / name).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found
