"""Did an answer do what was asked: one small function per kind of request, each `(answer, value) -> bool`.

Lenient where people are (spaces around an answer, quotation marks around a copy, a final full stop after a
word), strict where the request was.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources

import yaml

from finetuneflow.metrics.json_answers import parse_json

QUOTES = "\"'«»“”„‘’` \u00a0\u202f"
WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
NUMBER = re.compile(r"(?<![\w.,])[-−]?(?:\d{1,3}(?:[ \u00a0\u202f,]\d{3})+(?!\d)|\d+(?:[.,]\d+)?)")
SENTENCE_END = re.compile(r"[.!?…]+(?=[\s\"»”)]|$)")
BEGINNING = 300
"""Characters of an answer in which a refusal shows."""
FEWEST_WORDS = 3
"""A sentence of fewer words is no answer to a request for one."""


def lines(answer: str) -> list[str]:
    """The lines that are not empty, without spaces around them."""
    return [line.strip() for line in answer.splitlines() if line.strip()]


def words(answer: str) -> list[str]:
    """The words of an answer; one with a hyphen or an apostrophe counts once."""
    return WORD.findall(answer)


def dashed_lines(answer: str, value: str) -> bool:
    """As many lines as asked for, each with a dash in front."""
    found = lines(answer)
    return len(found) == int(value) and all(re.match(r"[-–—•] *\w", line) for line in found)


def numbered_lines(answer: str, value: str) -> bool:
    """As many lines as asked for, numbered from 1."""
    found = lines(answer)
    return len(found) == int(value) and all(
        re.match(rf"{number}[.)] *\S", line) for number, line in enumerate(found, start=1)
    )


def comma_list(answer: str, value: str) -> bool:
    """As many entries as asked for, on one line, separated by commas."""
    entries = answer.strip().rstrip(".").split(",")
    return (
        len(lines(answer)) == 1
        and len(entries) == int(value)
        and all(1 <= len(words(entry)) <= FEWEST_WORDS for entry in entries)
    )


def one_word(answer: str, value: str) -> bool:
    """A single word."""
    return len(words(answer)) == 1


def capitals(answer: str, value: str) -> bool:
    """A few words, all in capitals."""
    return answer.isupper() and 1 <= len(words(answer)) <= FEWEST_WORDS


def lower_case(answer: str, value: str) -> bool:
    """A sentence without a capital."""
    return answer.islower() and len(words(answer)) >= FEWEST_WORDS


def brackets(answer: str, value: str) -> bool:
    """Everything between one pair of square brackets."""
    return bool(re.fullmatch(r"\[[^\[\]]*\w[^\[\]]*\]\.?", answer.strip()))


def one_of(answer: str, value: str) -> bool:
    """One of the words given, and nothing else."""
    return answer.strip().rstrip(".!").casefold() in value.split("|")


def number(answer: str, value: str) -> bool:
    """The last number of the answer is the right one."""
    found = [re.sub(r"[ \u00a0\u202f]|,(?=\d{3}\b)", "", match) for match in NUMBER.findall(answer)]
    return bool(found) and found[-1].replace("−", "-").replace(",", ".").removesuffix(".0") == value


def same_text(answer: str, value: str) -> bool:
    """The text itself; quotation marks and spaces around it do not count."""
    ours, theirs = (unicodedata.normalize("NFC", text).strip(QUOTES + "\n") for text in (answer, value))
    return ours == theirs


def same_json(answer: str, value: str) -> bool:
    """The same JSON value, however it is laid out."""
    try:
        # as texts: for Python, true is 1
        return json.dumps(parse_json(answer), sort_keys=True) == json.dumps(parse_json(value), sort_keys=True)
    except ValueError:
        return False


def contains(answer: str, value: str) -> bool:
    """Each of the words is there, in a sentence."""
    found = {word.casefold() for word in words(answer)}
    return len(words(answer)) >= FEWEST_WORDS and all(word.casefold() in found for word in value.split("|"))


def without_letter(answer: str, value: str) -> bool:
    """A sentence without that letter."""
    return len(words(answer)) >= FEWEST_WORDS and value.casefold() not in answer.casefold()


def at_most_words(answer: str, value: str) -> bool:
    """Not longer than asked for, and not empty."""
    return 1 <= len(words(answer)) <= int(value)


def sentences(answer: str, value: str) -> bool:
    """As many sentences as asked for."""
    return len(SENTENCE_END.findall(answer.strip())) == int(value) and len(words(answer)) >= FEWEST_WORDS


def starts_with(answer: str, value: str) -> bool:
    """Those words first, and more after them."""
    text = answer.strip(QUOTES + "\n").casefold().replace("’", "'")
    return text.startswith(value.casefold()) and len(words(answer)) > len(words(value))


def ends_with(answer: str, value: str) -> bool:
    """Something, and those words last."""
    text = answer.strip(QUOTES + "\n.!").casefold().replace("’", "'")
    return text.endswith(value.casefold()) and len(words(answer)) > len(words(value))


def refuses(answer: str, value: str) -> bool:
    """Declines, in its first words."""
    return bool(_refusal().search(answer[:BEGINNING].replace("’", "'")))


def helps(answer: str, value: str) -> bool:
    """Does not decline, and says something."""
    return len(words(answer)) >= FEWEST_WORDS and not refuses(answer, value)


@cache
def _refusal() -> re.Pattern[str]:
    text = (resources.files("finetuneflow.assets") / "forgetting" / "suite.yaml").read_text(encoding="utf-8")
    return re.compile("|".join(yaml.safe_load(text)["refusing"]), re.IGNORECASE)


CHECKS: Mapping[str, Callable[[str, str], bool]] = {
    check.__name__: check
    for check in (
        dashed_lines,
        numbered_lines,
        comma_list,
        one_word,
        capitals,
        lower_case,
        brackets,
        one_of,
        number,
        same_text,
        same_json,
        contains,
        without_letter,
        at_most_words,
        sentences,
        starts_with,
        ends_with,
        refuses,
        helps,
    )
}
