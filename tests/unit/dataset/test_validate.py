from __future__ import annotations

from pathlib import Path

from finetuneflow.dataset.formats import read_dataset
from finetuneflow.dataset.validate import ChecklistItem, check, checklist
from finetuneflow.schemas.dataset import CoverageReport, Dropped, ValidationReport
from finetuneflow.schemas.example import Example, Message, Provenance, Split


def chat(question: str, answer: str, kind: str | None = None) -> Example:
    turns = [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return Example(messages=turns, provenance=Provenance(question_type=kind))


def report_on(examples: list[Example]) -> ValidationReport:
    return ValidationReport(path="x", format="openai", rows=len(examples), valid=len(examples))


def reasons(*examples: Example) -> list[tuple[int, str]]:
    report = check(list(examples), report_on(list(examples)))
    return [(warning.line, warning.reason) for warning in report.warnings]


def test_good_french_gives_no_warning() -> None:
    good = chat("Qu'est-ce que « l'été » ?", "C'est une saison, créée à l'équinoxe… où il fait 30 °C.")
    assert reasons(good) == []


def test_rows_to_look_at_are_warned_about() -> None:
    unfinished = Example(messages=[*chat("a", "b c d").messages, Message(role="user", content="et ?")])
    found = reasons(
        chat("Long ?", "mot " * 501),
        chat("Court ?", "a"),
        chat("Abîmé ?", "dÃ©jÃ  vu"),
        unfinished,
        Example(text="dÃ©jÃ\xa0 vu", label="a"),
    )
    assert found == [
        (1, "long_answer"),
        (2, "short_answer"),
        (3, "mojibake"),
        (4, "last_turn"),
        (5, "mojibake"),
    ]


def test_a_conflict_names_the_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('prompt,completion\n"Qui,\ndonc ?",Moi.\nbad\nQui donc ?,Lui.\n', encoding="utf-8")
    examples, report = read_dataset(path)
    checked = check(examples, report)
    (warning,) = checked.warnings
    assert (warning.line, warning.reason) == (5, "conflict")
    assert "line 2" in warning.message
    assert report.warnings == []
    assert (checked.rows, checked.valid, len(checked.dropped)) == (3, 2, 1)
    assert "lines" not in checked.model_dump()


def by_name(items: list[ChecklistItem]) -> dict[str, ChecklistItem]:
    return {item.name: item for item in items}


def good_splits() -> dict[Split, list[Example]]:
    answer = "mot " * 30
    made = [chat(f"Question {n} ?", answer, "status" if n % 2 else "definition") for n in range(118)]
    made += [chat(f"Inconnu {n} ?", f"Je ne sais pas : {answer}", "negative") for n in range(12)]
    return {"train": made[:100] + made[118:], "validation": made[100:108], "test": made[108:118]}


def test_a_good_dataset_passes_the_whole_checklist() -> None:
    coverage = CoverageReport(records=45, covered=43, uncovered=["A", "B"], coverage=43 / 45)
    items = by_name(checklist(good_splits(), report_on([]), coverage))
    assert {name: item.ok for name, item in items.items()} == dict.fromkeys(
        ["size", "format", "duplicates", "coverage", "balance", "quality", "length", "negatives", "split"],
        True,
    )
    assert "43 of 45" in items["coverage"].detail
    assert "95.6%" in items["coverage"].detail


def test_each_point_of_the_checklist_can_fail() -> None:
    bad: dict[Split, list[Example]] = {
        "train": [chat("A ?", "b", "status")] * 30 + [chat("A ?", "dÃ©jÃ  vu", "definition")],
        "test": [chat("a", "b", "status")],
    }
    report = report_on([])
    report.dropped.append(Dropped(line=1, reason="invalid_json", message="x"))
    coverage = CoverageReport(records=10, covered=8, uncovered=["A", "B"], coverage=0.8)
    items = by_name(checklist(bad, report, coverage, language="fr"))
    assert [name for name, item in items.items() if item.ok is not False] == []
    assert items["coverage"].detail == "8 fiches sur 10 (80 %)"


def test_what_cannot_be_checked_is_left_open() -> None:
    labelled: dict[Split, list[Example]] = {"train": [Example(text=str(n), label="a") for n in range(100)]}
    items = by_name(checklist(labelled))
    assert [name for name, item in items.items() if item.ok is None] == [
        "format", "coverage", "balance", "length", "negatives"
    ]  # fmt: skip
    assert items["split"].ok is False
