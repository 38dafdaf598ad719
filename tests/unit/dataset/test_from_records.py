import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetuneflow.dataset.field_mapping import guess_mapping
from finetuneflow.dataset.from_records import QUESTION_TYPES, generate, possible_questions
from finetuneflow.dataset.wording import wordings
from finetuneflow.errors import DatasetError, InputError
from finetuneflow.ingest.read import read_records
from finetuneflow.schemas.dataset import FieldMapping
from finetuneflow.schemas.example import Example
from finetuneflow.schemas.source import Record, RecordSource

SAMPLE = Path(__file__).parents[3] / "src/finetuneflow/assets/sample/catalogue.json"
SHARED = Path(os.environ.get("FTF_SHARED_DATA", Path(__file__).parents[4] / "shared/data"))
SINGLE = ("definition", "status", "domain", "actors", "sites")
MAPPING = FieldMapping(
    id="id",
    name="nom",
    long_name="nom long",
    definition=["descriptif"],
    status=["statut"],
    domain=["domaine"],
    actors=["acteurs"],
    sites=["sites"],
)


def source(*rows: dict[str, Any], language: str = "fr") -> RecordSource:
    fields = list(dict.fromkeys(["id", *(field for row in rows for field in row), *ALL_FIELDS]))
    records = [
        Record(
            id=row.get("id", str(place)),
            line=place + 1,
            fields={key: value for key, value in row.items() if value},
        )
        for place, row in enumerate(rows, 1)
    ]
    return RecordSource(source_id="s", name="outils.csv", fields=fields, records=records, language=language)


ALL_FIELDS = ("nom", "nom long", "descriptif", "statut", "domaine", "acteurs", "sites")


def mapping(**changes: Any) -> FieldMapping:
    return MAPPING.model_copy(update=changes)


def sample() -> tuple[RecordSource, FieldMapping]:
    records = read_records(SAMPLE)
    return records, guess_mapping(records)


def sill() -> tuple[RecordSource, FieldMapping]:
    path = SHARED / "records/sill-2020.csv"
    if not path.exists():
        pytest.skip(f"real data is absent: {path} (set FTF_SHARED_DATA)")
    records = read_records(path)
    return records, guess_mapping(records)


def as_bytes(examples: list[Example]) -> bytes:
    return "\n".join(example.model_dump_json() for example in examples).encode()


@pytest.mark.parametrize("number", [1, 48, 500, 1000])
def test_exactly_the_asked_number_of_distinct_questions(number: int) -> None:
    records, guessed = sample()
    for negatives in (False, True):
        examples = generate(records, guessed, num_questions=number, add_negatives=negatives)
        assert len(examples) == number
        assert len({example.question for example in examples}) == number


def test_more_than_possible_gives_all_and_their_number_can_be_known() -> None:
    records, guessed = sample()
    possible = possible_questions(records, guessed)
    assert set(possible) == set(QUESTION_TYPES)
    everything = generate(records, guessed, num_questions=100_000)
    assert len(everything) == sum(possible.values()) == len(generate(records, guessed))
    assert Counter(example.provenance.question_type for example in everything) == possible


def test_as_many_questions_as_records_cover_all_records() -> None:
    records, guessed = sample()
    examples = generate(records, guessed, num_questions=len(records.records))
    covered = {record for example in examples for record in example.provenance.record_ids}
    assert covered == {record.id for record in records.records}


def test_types_and_wordings_are_balanced() -> None:
    records, guessed = sample()
    examples = generate(records, guessed, num_questions=700)
    counts = Counter(example.provenance.question_type for example in examples)
    assert max(counts.values()) - min(counts.values()) <= 2
    used = Counter(
        example.provenance.wording for example in examples if example.provenance.question_type == "status"
    )
    assert len(used) == 12
    assert max(used.values()) - min(used.values()) <= 4


def test_only_the_asked_types_are_generated() -> None:
    records, guessed = sample()
    examples = generate(records, guessed, question_types=["status", "listing"])
    assert {example.provenance.question_type for example in examples} == {"status", "listing"}


def test_the_same_seed_gives_the_same_bytes_in_another_process_and_another_seed_does_not() -> None:
    records, guessed = sample()
    first = generate(records, guessed, num_questions=60, add_negatives=True, seed=3)
    script = (
        "import sys; from pathlib import Path; from finetuneflow.ingest.read import read_records;"
        "from finetuneflow.dataset.field_mapping import guess_mapping;"
        "from finetuneflow.dataset.from_records import generate;"
        "s = read_records(Path(sys.argv[1])); m = guess_mapping(s);"
        "e = generate(s, m, num_questions=60, add_negatives=True, seed=3);"
        "sys.stdout.buffer.write('\\n'.join(x.model_dump_json() for x in e).encode())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "99"}
    other = subprocess.run(
        [sys.executable, "-c", script, str(SAMPLE)], capture_output=True, check=True, env=environment
    )
    assert other.stdout == as_bytes(first)
    assert as_bytes(generate(records, guessed, num_questions=60, add_negatives=True, seed=4)) != as_bytes(
        first
    )


def test_held_out_wordings_appear_only_when_asked_and_are_marked() -> None:
    records, guessed = sample()
    plain = generate(records, guessed, num_questions=100)
    assert not any(example.provenance.wording_held_out for example in plain)
    examples = generate(records, guessed, num_questions=100, held_out_wordings=True)
    kept_out = [example for example in examples if example.provenance.wording_held_out]
    assert len(examples) - len(kept_out) == 100
    asked = {example.provenance.fact for example in examples if example.provenance.question_type in SINGLE}
    assert {example.provenance.fact for example in kept_out} == asked
    assert len(kept_out) == len(asked)
    answer_of = {example.provenance.fact: example.answer for example in plain}
    shared = [example for example in kept_out if example.provenance.fact in answer_of]
    assert shared
    assert all(example.answer == answer_of[example.provenance.fact] for example in shared)


@pytest.mark.parametrize(
    ("using", "questions"),
    [
        (
            mapping(),
            {
                "Où en est Orme aujourd'hui ?",
                "Que sais-tu d'Orme ?",
                "À quel métier se rattache Orme ?",
                "Qui est aux commandes d'Orme ?",
                "Dans quels endroits Orme est-elle déployée ?",
            },
        ),
        (
            mapping(language="en"),
            {
                "How far along is Orme today?",
                "What do you know about Orme?",
                "Which line of business does Orme belong to?",
                "Who is in charge of Orme?",
                "In which places is Orme rolled out?",
            },
        ),
    ],
)
def test_the_held_out_wordings_are_these(using: FieldMapping, questions: set[str]) -> None:
    row = {"nom": "Orme", "descriptif": "x", "statut": "x", "domaine": "x", "acteurs": "x", "sites": "x"}
    examples = generate(source(row), using, held_out_wordings=True)
    assert {example.question for example in examples if example.provenance.wording_held_out} == questions


@pytest.mark.parametrize("language", ["fr", "en"])
def test_there_are_enough_wordings_and_none_is_near_a_held_out_one(language: str) -> None:
    telling = {
        "fr": ["où en est", "que sais-tu", "métier", "aux commandes", "endroits", "déployé"],
        "en": ["how far along", "you know about", "line of business", "in charge", "places", "rolled out"],
    }
    for kind in (*SINGLE, "comparative", "listing_status", "listing_domain"):
        ordinary = wordings(language, kind)
        assert len(ordinary) >= 8
        assert len({wording.text for wording in ordinary}) == len(ordinary)
        assert not [w.text for w in ordinary if any(piece in w.text.lower() for piece in telling[language])]
        assert len(wordings(language, kind, held_out=True)) == (kind in SINGLE)


def test_negatives_are_a_tenth_and_truly_absent() -> None:
    records, guessed = sample()
    examples = generate(records, guessed, num_questions=500, add_negatives=True)
    negatives = [example for example in examples if example.provenance.question_type == "negative"]
    assert len(negatives) == 50
    by_id = {record.id: record for record in records.records}
    everything = str([record.fields for record in records.records]).lower()
    kinds = Counter()
    for example in negatives:
        assert example.answer.startswith("Je ne sais pas : ")
        kinds[bool(example.provenance.record_ids)] += 1
        if example.provenance.record_ids:
            kind = example.provenance.fact.split(":")[1]
            field = getattr(guessed, kind)[0]
            assert field not in by_id[example.provenance.record_ids[0]].fields
        else:
            name = example.provenance.fact.removeprefix("unknown ").split(":")[0]
            assert name in example.question
            assert name.lower() not in everything
    assert kinds[True] >= 20
    assert kinds[False] >= 20


def test_an_invented_name_is_never_a_word_of_the_catalogue() -> None:
    def invented(rows: list[dict[str, Any]]) -> set[str]:
        examples = generate(source(*rows), MAPPING, add_negatives=True)
        facts = {example.provenance.fact or "" for example in examples}
        return {fact.removeprefix("unknown ").split(":")[0] for fact in facts if fact.startswith("unknown")}

    row = {"nom": "Orme", "nom long": "x", "statut": "x", "domaine": "x", "acteurs": "x", "sites": "x"}
    before = invented([{**row, "descriptif": "x"}])
    assert before
    assert not before & invented([{**row, "descriptif": " ".join(sorted(before))}])


def test_without_a_number_one_in_ten_is_a_negative() -> None:
    records, guessed = sample()
    examples = generate(records, guessed, add_negatives=True)
    share = sum(example.provenance.question_type == "negative" for example in examples) / len(examples)
    assert share == pytest.approx(0.1, abs=0.005)


def test_provenance_and_messages_are_complete() -> None:
    rows = [{"id": "42", "nom": "Orme", "statut": "en test"}]
    example = generate(
        source(*rows), MAPPING, num_questions=1, question_types=["status"], system_prompt="Tu aides."
    )[0]
    assert [message.role for message in example.messages] == ["system", "user", "assistant"]
    assert example.messages[0].content == "Tu aides."
    known = example.provenance
    assert (known.source_id, known.source_name, known.record_ids, known.line) == (
        "s",
        "outils.csv",
        ["42"],
        2,
    )
    assert (known.question_type, known.fact, known.generator) == ("status", "42:status", "records-template/1")
    assert re.fullmatch(r"fr\.status\.\d+", known.wording)
    assert [m.role for m in generate(source(*rows), MAPPING, num_questions=1)[0].messages] == [
        "user",
        "assistant",
    ]


def test_a_field_that_the_source_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="`domaines`"):
        generate(source({"nom": "Orme"}), mapping(domain=["domaines"]))


def test_nothing_to_ask_is_an_error_that_says_which_fields() -> None:
    with pytest.raises(DatasetError, match="sites"):
        generate(source({"nom": "Orme", "statut": "en test"}), MAPPING, question_types=["sites"])


def test_cells_that_mean_nothing_are_empty() -> None:
    rows = [
        {"nom": "Orme", "statut": "n/a", "domaine": "-", "sites": "0", "descriptif": "Néant", "acteurs": "X"}
    ]
    assert {example.provenance.question_type for example in generate(source(*rows), MAPPING)} == {"actors"}


def test_every_answer_of_sill_2020_reads_as_one_clean_sentence() -> None:
    records, guessed = sill()
    examples = generate(records, guessed)
    covered = {record for example in examples for record in example.provenance.record_ids}
    assert len(covered) == 225
    for example in examples:
        assert_clean(example)


def test_a_thousand_pairs_in_well_under_a_second() -> None:
    records, guessed = sill()
    started = time.process_time()
    assert len(generate(records, guessed, num_questions=1000, add_negatives=True)) == 1000
    assert time.process_time() - started < 1.0


def assert_clean(example: Example) -> None:
    for text in (example.question, example.answer):
        assert "  " not in text
        assert text == text.strip()
        assert "{" not in text
        assert " ." not in text
        assert " ," not in text
    assert example.answer.endswith(".")
    assert not re.search(r"(?<!\.)\.\.$", example.answer)
    assert example.answer[0].isupper()


UNELIDED = re.compile(r"\b(?:de|le|que|la) (?=[aeioéAEIOÉ])")
# "0" alone says that there is no name, and a name that is the word "de" reads as a missing elision.
NAMES = st.text(alphabet="abdeiorstxABEÉIORST089-", min_size=1, max_size=9).filter(
    lambda text: text[0].isalnum() and text != "0" and "de" not in text.casefold().split("-")
)
ENTITIES = st.sampled_from([("application", "f"), ("outil", "m"), ("logiciel", "m"), ("base", "f")])


@st.composite
def catalogues(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Records whose every value is a word found nowhere else, some fields empty."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.casefold))
    rows = []
    for place, name in enumerate(names):
        row = {"id": str(place), "nom": name}
        for field in ALL_FIELDS[1:]:
            count = draw(st.integers(0, 2))
            words = [f"Mot{field[:3]}{place}n{number}" for number in range(count)]
            row[field] = words if field in ("domaine", "acteurs", "sites") else (words[0] if words else "")
        rows.append(row)
    return rows


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(catalogues(), ENTITIES, st.integers(0, 5))
def test_whatever_the_records_answers_say_them_alone_and_grammar_holds(
    rows: list[dict[str, Any]], entity: tuple[str, str], seed: int
) -> None:
    using = mapping(entity=entity[0], entity_gender=entity[1])
    records = source(*rows)
    words = {
        value: (row["id"], field)
        for row in rows
        for field in ALL_FIELDS[1:]
        for value in (row[field] if isinstance(row[field], list) else [row[field]])
        if value
    }
    if not words:
        return
    examples = generate(records, using, add_negatives=True, held_out_wordings=True, seed=seed)
    answer_of = defaultdict(set)
    for example in examples:
        assert_clean(example)
        assert not UNELIDED.findall(f"{example.question} {example.answer}")
        answer_of[example.question].add(example.answer)
        spoken = {word for word in words if word in example.answer}
        assert {words[word][0] for word in spoken} <= set(example.provenance.record_ids)
        if example.provenance.question_type in SINGLE:
            kind = example.provenance.question_type
            fields = {*getattr(using, kind), *(["nom long"] if kind == "definition" else [])}
            own = {word for word, (_, field) in words.items() if field in fields}
            assert spoken == {word for word in own if words[word][0] in example.provenance.record_ids}
    assert all(len(given_answers) == 1 for given_answers in answer_of.values())
    assert as_bytes(examples) == as_bytes(
        generate(records, using, add_negatives=True, held_out_wordings=True, seed=seed)
    )
