"""Where examples come from, kept beside a dataset file so that the file itself stays pure.

`x.jsonl` has `x.provenance.jsonl`, `x.csv` has `x.csv.provenance.jsonl`: one line per example,
`{"example": <hash of its content>, "provenance": {...}}`. Found by hash: the file may be edited and sorted.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from finetuneflow.artifacts import write_lines
from finetuneflow.dataset.canonical import example_hash
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.dataset import Dropped
from finetuneflow.schemas.example import Example, Provenance

SUFFIX = ".provenance.jsonl"


class ProvenanceLine(Schema):
    """One line of the file."""

    example: str
    """`example_hash` of the example."""
    provenance: Provenance


def sidecar_path(path: Path) -> Path:
    """The file beside `path` that says where its examples come from."""
    return path.with_suffix(SUFFIX) if path.suffix.lower() == ".jsonl" else path.with_name(path.name + SUFFIX)


def write_sidecar(path: Path, examples: Sequence[Example]) -> None:
    """Writes the provenance of those examples that have any; without any, there is no file."""
    nothing = Provenance()
    lines = [
        ProvenanceLine(example=example_hash(example), provenance=example.provenance)
        for example in examples
        if example.provenance != nothing
    ]
    target = sidecar_path(path)
    if lines:
        write_lines(target, (line.model_dump_json(exclude_defaults=True) for line in lines))
    else:
        target.unlink(missing_ok=True)  # one of an earlier version of the file would tell tales


def apply_sidecar(path: Path, examples: Sequence[Example]) -> list[Dropped]:
    """Gives examples read from `path` the provenance found beside it; gives a warning per unreadable line."""
    source = sidecar_path(path)
    if not source.exists():
        return []
    known: defaultdict[str, deque[Provenance]] = defaultdict(deque)
    warnings = []
    for number, line in enumerate(source.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            entry = ProvenanceLine.model_validate_json(line)
        except ValidationError:
            message = f"{source.name}, line {number}: not readable, what it says about its example is lost"
            remedy = "restore the file"
            warnings.append(Dropped(line=number, reason="provenance", message=message, remedy=remedy))
            continue
        known[entry.example].append(entry.provenance)
    for example in examples:
        candidates = known.get(example_hash(example))
        if candidates:
            # identical examples take theirs in order; the last one stays for further copies
            example.provenance = candidates.popleft() if len(candidates) > 1 else candidates[0]
    return warnings
