"""The promised speeds, measured: `make bench`. Prints one line each and fails where a promise is not kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from finetuneflow.services import datasets

HELP_SECONDS = 0.300
PAIRS_SECONDS = 2.0
PAIRS = 1000
ROUNDS = 5


def help_seconds() -> float:
    """Wall time of `finetuneflow --help`, the best of some."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "finetuneflow", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def pairs_seconds(records: Path) -> float:
    """Time to make and write question-answer pairs from a record file, after start-up, the best of some."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            made = datasets.from_records(records, num_questions=PAIRS, add_negatives=True)
            datasets.write(Path(folder) / "pairs.jsonl", made.examples)
            times.append(time.perf_counter() - started)
            assert len(made.examples) == PAIRS
    return min(times)


def main() -> int:
    """Measures and gives the exit code."""
    rows = [("finetuneflow --help", help_seconds(), HELP_SECONDS)]
    records = Path(os.environ.get("FTF_SHARED_DATA", "../shared/data")) / "records" / "sill-2020.csv"
    if records.exists():
        rows.append((f"{PAIRS} pairs from {records.name}", pairs_seconds(records), PAIRS_SECONDS))
    else:
        print(f"left out: {records} is not there (set FTF_SHARED_DATA)")
    for name, seconds, limit in rows:
        print(
            f"{name:<36} {seconds:6.3f} s   promised {limit:.1f} s  {'kept' if seconds < limit else 'BROKEN'}"
        )
    return int(any(seconds >= limit for _, seconds, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
