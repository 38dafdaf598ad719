"""Facts of a document by rules: definitions, sections, lists, key-value lines, tables. No model needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetuneflow.dataset import french
from finetuneflow.dataset.document_facts import (
    Fact,
    clean_phrase,
    key_forms,
    list_leads,
    pattern,
    title_form,
    word_set,
    words,
)
from finetuneflow.dataset.document_tables import table_facts
from finetuneflow.dataset.sentences import Sentence, sentences
from finetuneflow.schemas.source import Block, Document

_MARKER = re.compile(r"^(?:[-*+•‣–—◦▪]|\(?\w{1,3}[.)])\s+")
_KEY_VALUE = re.compile(r"(?P<key>[^\W\d_][^:=.;!?()|]{1,40}?)\s*(?P<sign>[:=])\s+(?P<value>\S.*)", re.DOTALL)
_CODE_MEANING = re.compile(r"(?P<key>[\w./+-]{1,12})\s*=\s*(?P<value>[^=:]{4,80})")
_TERM = re.compile(
    r"(?P<term>[^\W\d_][^:–—.;!?|]{1,50}?)\s*(?::|\s[–—-])\s+(?P<rest>[^\W\d_\"“«].{19,})", re.DOTALL
)
_BEFORE_ACRONYM = re.compile(r"\((?P<acronym>[A-ZÀ-Þ]{2,8})\)")
_AFTER_ACRONYM = re.compile(r"\b(?P<acronym>[A-ZÀ-Þ]{2,8})\s\((?P<long>[^()]{6,90})\)")
_REFERENCE = re.compile(
    r"\b(?:listing|figure|fig\.|table|tableau|chapter|chapitre)\s+\d|\bon page\b|\bpage\s+\d"
    r"|\b(?:of|with|like) this\b|ci-(?:dessus|dessous|après)"
    r"|\babove\b|\bbelow\b|\bfollowing\b|\bsuivante?s?\b",
    re.IGNORECASE,
)
_COMPLETE = re.compile(r"[.!?…][»”\"')\]\s]*$|[»”]$")
_WORD = re.compile(r"[^\W\d_]+")
_QUESTION_WORD = re.compile(
    r"^(?:what|who|why|how|when|where|which|can|does|is|are|do|qu['’]|que|quoi|qui|quel|quelle|quels|quelles|pourquoi"
    r"|comment|quand|où|combien|faut-il|peut-on|puis-je)\b",
    re.IGNORECASE,
)
SHORTEST, LONGEST = 25, 600
"""Characters of an answer in sentences."""
_LONGEST_LIST = 1500


@dataclass(frozen=True)
class _Place:
    """A block, the titles above it, and the words that the document writes in lower case."""

    block: Block
    titles: tuple[str, ...]
    lower: frozenset[str]

    @property
    def title(self) -> str:
        """The nearest title, as it is quoted; empty when there is none."""
        return title_form(self.titles[-1]) if self.titles else ""


def facts(document: Document) -> list[Fact]:
    """Every fact that the rules find, in the order of the document."""
    language = document.language
    places = list(_places(document))
    found: list[Fact] = []
    for index, place in enumerate(places):
        block = place.block
        if block.kind == "table":
            found.extend(table_facts(block, language))
        elif block.kind == "heading":
            found.extend(_section(places, index, language))
        elif block.kind in ("paragraph", "list_item"):
            found.extend(_key_value(places, index, language))
            found.extend(_term(block, language))
            found.extend(_definitions(block, language, place.lower))
            found.extend(_acronyms(block))
            if block.kind == "list_item" and (not index or places[index - 1].block.kind != "list_item"):
                found.extend(_list(places, index, language))
    return found


def _places(document: Document) -> Iterator[_Place]:
    titles: list[tuple[int, str]] = []
    prose = (block.text for block in document.blocks if block.kind != "code")
    lower = frozenset(word for text in prose for word in _WORD.findall(text) if word.islower())
    for block in document.blocks:
        if block.kind == "heading":
            while titles and titles[-1][0] >= block.level:
                titles.pop()
            titles.append((block.level, block.text))
        yield _Place(block, tuple(title for _, title in titles), lower)


def _body(block: Block) -> tuple[str, int]:
    """Text of a block without the marker of a list, and where it starts in the document."""
    marker = _MARKER.match(block.text) if block.kind == "list_item" else None
    skipped = marker.end() if marker else 0
    return block.text[skipped:], block.start + skipped


def _definitions(block: Block, language: str, lower: frozenset[str]) -> Iterator[Fact]:
    text, offset = _body(block)
    for sentence in sentences(text, words(language)["abbreviations"]):
        match = pattern(language, "definition").match(sentence.text)
        if match is None or not _good_sentence(sentence):
            continue
        subject = match["subject"].strip()
        bare = pattern(language, "articles").sub("", subject)
        parts = re.findall(r"[\w'’-]+", bare.lower())
        if (
            min(map(len, parts), default=0) < 2
            or len(bare) < 3
            or not clean_phrase(subject)
            or bare[0] in "(“\"'"
        ):
            continue
        if any(part in word_set(language, "not_subjects") for part in parts):
            continue
        phrase = _inside(subject, bare, lower)
        several = (
            re.search(r"\s(?:are|sont|désignent)\s", sentence.text[match.end("subject") :][:12]) is not None
        )
        forms = {"phrase": phrase, "be": "are" if several else "is", "term": bare}
        if language == "fr":
            forms["que"] = french.that(phrase)
        yield Fact(
            "definition", "definition", offset + sentence.start, offset + sentence.end, forms, block.page
        )


def _inside(subject: str, bare: str, lower: frozenset[str]) -> str:
    """A subject inside a sentence: `Le schéma` → le schéma; `Rust`, never in lower case, stays."""
    first = _WORD.findall(bare)[:1]
    ordinary = subject != bare or (bool(first) and first[0][1:].islower() and first[0].lower() in lower)
    return subject[0].lower() + subject[1:] if ordinary else subject


def _term(block: Block, language: str) -> Iterator[Fact]:
    """Finds `Term: a whole explanation.`."""
    text, offset = _body(block)
    match = _TERM.fullmatch(text)
    if match is None:
        return
    term, rest = match["term"].strip(), match["rest"].rstrip()
    if term.lower() in word_set(language, "not_terms") or len(term.split()) > 5 or not clean_phrase(term):
        return
    if re.search(r"[()=<>]", term):
        return
    if not (term[0].isupper() or block.kind == "list_item") or rest[-1] not in ".!" or len(rest.split()) < 5:
        return
    if len(rest) > LONGEST or {part.lower() for part in term.split()} & word_set(language, "not_subjects"):
        return
    start = offset + match.start("rest")
    yield Fact("definition", "term", start, start + len(rest), {"term": title_form(term)}, block.page)


def _acronyms(block: Block) -> Iterator[Fact]:
    for match in _AFTER_ACRONYM.finditer(block.text):
        if _spells(match["long"], match["acronym"]):
            yield _acronym(block, match["acronym"], *match.span("long"))
    for match in _BEFORE_ACRONYM.finditer(block.text):
        before = block.text[: match.start()].rstrip()
        starts = [word.start() for word in re.finditer(r"[\w'’-]+", before)][-12:]
        for start in reversed(starts):
            if before[start].lower() == match["acronym"][0].lower() and _spells(
                before[start:], match["acronym"]
            ):
                yield _acronym(block, match["acronym"], start, len(before))
                break


def _acronym(block: Block, acronym: str, start: int, end: int) -> Fact:
    return Fact(
        "definition", "acronym", block.start + start, block.start + end, {"term": acronym}, block.page
    )


def _spells(long: str, acronym: str) -> bool:
    """True when beginnings of the words make the acronym (`DINUM`); short words may give none."""
    if re.search(r"[.:;!?]", long):
        return False
    return _made_of(french.unaccented(acronym), [french.unaccented(word) for word in _WORD.findall(long)])


def _made_of(letters: str, parts: list[str]) -> bool:
    if not parts:
        return not letters
    head, rest = parts[0], parts[1:]
    if len(head) <= 3 and _made_of(letters, rest):
        return True
    taken = 0
    while taken < min(len(head), len(letters)) and head[taken] == letters[taken]:
        taken += 1
        if _made_of(letters[taken:], rest):
            return True
    return False


def _section(places: Sequence[_Place], index: int, language: str) -> Iterator[Fact]:
    """The first sentences under a title that say something by themselves."""
    heading = places[index].block
    title = title_form(heading.text)
    if not 4 <= len(title) <= 100 or not clean_phrase(title) or len(title.split()) > 14:
        return
    if title.lower() in word_set(language, "generic_titles") or pattern(language, "dated").search(title):
        return
    for place in places[index + 1 : index + 3]:
        if place.block.kind != "paragraph":
            return
        span = _opening(place.block, language)
        if span is None:
            continue
        forms = {"h": title, "h_lower": title}
        asked = title.endswith("?") and _QUESTION_WORD.match(title)
        if asked:
            title = _sentence_case(title, places[index].lower)
            title = re.sub(r"\s*\?$", " ?" if language == "fr" else "?", title)
            forms = {"h": title, "h_lower": title[0].lower() + title[1:]}
        wording = "section_question" if asked else "section"
        yield Fact("section", wording, *span, forms, place.block.page)
        return


def _sentence_case(title: str, lower: frozenset[str]) -> str:
    """`What Is Ownership?` → What is ownership?, names kept."""
    first, *rest = title.split(" ")
    return " ".join([first, *(word.lower() if word.rstrip("?").lower() in lower else word for word in rest)])


def _opening(block: Block, language: str) -> tuple[int, int] | None:
    """One or two sentences of a paragraph that can stand alone; a second only after a short one."""
    found = sentences(block.text, words(language)["abbreviations"])
    for number, sentence in enumerate(found[:3]):
        if not _good_sentence(sentence) or pattern(language, "not_openings").match(sentence.text):
            continue
        if sentence.text.endswith("?") or _REFERENCE.search(sentence.text):
            continue
        end = sentence.end
        if end - sentence.start < 60 and number + 1 < len(found):
            after = found[number + 1]
            if _good_sentence(after) and not after.text.endswith("?") and not _REFERENCE.search(after.text):
                end = after.end
        return block.start + sentence.start, block.start + end
    return None


def _good_sentence(sentence: Sentence) -> bool:
    """A whole sentence of prose, not a fragment, not code, not a table of contents."""
    text = sentence.text
    letters = sum(character.isalpha() for character in text)
    return (
        SHORTEST <= len(text) <= LONGEST
        and _COMPLETE.search(text) is not None
        and (text[0].isupper() or text[0] in '«“"')
        and letters >= 0.65 * len(text)
        and text.count("(") == text.count(")")
        and len(text.split()) >= 5
        and ". . ." not in text
        and "...." not in text
    )


def _list(places: Sequence[_Place], index: int, language: str) -> Iterator[Fact]:
    """A whole list, asked for by the sentence that leads to it or by the title above."""
    last = index
    while last + 1 < len(places) and places[last + 1].block.kind == "list_item":
        last += 1
    items = [place.block for place in places[index : last + 1]]
    start, end = items[0].start, items[-1].end
    if len(items) < 2 or end - start > _LONGEST_LIST or any(not _says_something(item) for item in items):
        return
    before = places[index - 1].block if index else None
    title = places[index].title
    page = items[0].page
    if before is not None and before.kind == "paragraph" and before.text.endswith(":"):
        lead = sentences(before.text, words(language)["abbreviations"])[-1].text
        named = next((match for form in list_leads(language) if (match := form.match(lead))), None)
        if named:
            things = named["things"][0].lower() + named["things"][1:]
            if clean_phrase(things) and len(things.split()) <= 10:
                yield Fact("list", "list_named", start, end, {"things": things}, page)
                return
        quoted = title_form(lead)
        weak = pattern(language, "weak_leads").match(lead) and _only_list(places, index)
        if not (weak and title) and 15 <= len(quoted) <= 160 and clean_phrase(quoted):
            yield Fact("list", "list_lead", start, end, {"lead": quoted}, page)
            return
    if (
        before is not None
        and before.kind in ("heading", "paragraph")
        and len(title) > 3
        and clean_phrase(title)
    ):
        yield Fact("list", "list", start, end, {"h": title}, page)


def _only_list(places: Sequence[_Place], index: int) -> bool:
    """True when the section of the list has no other one."""
    titles = places[index].titles
    section = [place for place in places if place.titles == titles]
    kinds = [place.block.kind for place in section]
    starts = sum(
        kind == "list_item" and (not number or kinds[number - 1] != "list_item")
        for number, kind in enumerate(kinds)
    )
    return starts == 1


def _says_something(item: Block) -> bool:
    text = _MARKER.sub("", item.text)
    letters = sum(character.isalpha() for character in text)
    return letters >= max(3, len(text) // 2) and "...." not in text and ". . ." not in text


def _key_value(places: Sequence[_Place], index: int, language: str) -> Iterator[Fact]:
    """`Statut : en production` under a title that names a thing; `R = recommandé` anywhere."""
    place = places[index]
    text, offset = _body(place.block)
    code = _CODE_MEANING.fullmatch(text)
    if code:
        start = offset + code.start("value")
        title = place.title
        wording = "meaning_in" if title and len(title) <= 60 and clean_phrase(title) else "meaning"
        end = start + len(code["value"].rstrip())
        yield Fact("key_value", wording, start, end, {"term": code["key"], "h": title}, place.block.page)
        return
    match = _pair(text)
    neighbours = [places[near].block for near in (index - 1, index + 1) if 0 <= near < len(places)]
    if match is None or not any(
        _pair(_body(block)[0]) for block in neighbours if block.kind == place.block.kind
    ):
        return
    key, value = match["key"].strip(), match["value"].rstrip()
    name = place.title
    if key.lower() in word_set(language, "not_terms") or not clean_phrase(key) or len(key.split()) > 5:
        return
    if (
        not 2 <= len(name) <= 60
        or not clean_phrase(name)
        or name.lower() in word_set(language, "generic_titles")
    ):
        return
    if not any(c.isalnum() for c in value) or value.lower() in word_set(language, "empty_values"):
        return
    articled, forms = key_forms(key, name, language)
    if any(part[0].isupper() for part in key.split()[1:]) and not key.isupper():
        return  # a name, not an attribute
    start = offset + match.start("value")
    wording = "key_value" if articled else "key_value_plain"
    yield Fact("key_value", wording, start, start + len(value), forms, place.block.page)


def _pair(text: str) -> re.Match[str] | None:
    """A key with a short value; a whole explanation is a definition instead."""
    match = _KEY_VALUE.fullmatch(text)
    if match is None or match["sign"] == "=":
        return None
    value = match["value"]
    sentence_like = len(value.split()) >= 5 and value.rstrip()[-1] in ".!"
    return None if sentence_like or len(value) > 200 else match
