"""`finetuneflow errors report` on 10,000 and 1,000,000 rows, as a user runs it: time, memory, sections.

    python benchmarks/errors.py            both sizes
    python benchmarks/errors.py 10000      one of them

Rows have six labels, context turns, comments and figures as in the document, and 20 % errors. The wall clock
includes start-up; on a machine that others use, compare the processor time.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

LABELS = ("ENGAGEMENT", "OUVERTURE", "REFLET_VOUS", "REFLET_JE", "REFLET_ACQ", "EXPLICATION")
PROMISES = {10_000: (3.0, None), 1_000_000: (30.0, 2.0)}
"""Rows → seconds, and GB."""
SECTIONS = 10
ERRORS = 0.2


def turn(rng: random.Random, label: str, words: int) -> str:
    """A sentence whose words tell its label now and then."""
    return " ".join(
        f"{label.lower()}{rng.randrange(300)}" if rng.random() < 0.35 else f"mot{rng.randrange(2000)}"
        for _ in range(words)
    )


def write_predictions(path: Path, rows: int) -> None:
    """A file of predictions with context, comments and figures."""
    rng = random.Random(0)  # noqa: S311
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            gold = rng.choice(LABELS)
            predicted = rng.choice(LABELS) if rng.random() < ERRORS * 1.2 else gold
            metadata: dict[str, object] = {
                "turnId": number,
                "prev2_turn_verbatim": turn(rng, rng.choice(LABELS), 12),
                "prev1_turn_verbatim": turn(rng, rng.choice(LABELS), 12),
                "next_turn_verbatim": turn(rng, rng.choice(LABELS), 12),
                "classifier": "rules",
                "model": "v3",
            }
            if rng.random() < 0.3:
                metadata["annotations"] = [{"rationale": turn(rng, gold, 6)}]
            row = {
                "verbatim": turn(rng, gold, 14),
                "predicted": predicted,
                "goldStandard": gold,
                "confidence": round(rng.random(), 3),
                "correct": predicted == gold,
                "processingTime": rng.randint(5, 50),
                "metadata": metadata,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure(rows: int, folder: Path) -> bool:
    """Runs the command once and prints what it took; true when the promises are kept."""
    source, out = folder / "predictions.jsonl", folder / "report.md"
    write_predictions(source, rows)
    command = ["-m", "finetuneflow", "errors", "report", str(source), "--out", str(out), "--lang", "fr"]
    started = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, *command], os.environ)
    _, status, usage = os.wait4(process, 0)
    wall, processor = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    gigabytes = usage.ru_maxrss / (1 << 20)
    text = out.read_text(encoding="utf-8")
    sections = sum(line.startswith("## ") for line in text.splitlines())
    seconds, most = PROMISES[rows]
    kept = status == 0 and wall < seconds and (most is None or gigabytes < most) and sections == SECTIONS
    print(
        f"{rows:>9,} rows ({source.stat().st_size / 1e6:,.0f} MB): {wall:.2f} s of {seconds:.0f} s "
        f"({processor:.2f} s of processor), {gigabytes:.2f} GB, {sections} sections  "
        f"{'kept' if kept else 'BROKEN'}"
    )
    return kept


def main() -> int:
    """Measures and gives the exit code."""
    sizes = [int(size) for size in sys.argv[1:]] or list(PROMISES)
    with tempfile.TemporaryDirectory() as folder:
        return int(not all([measure(rows, Path(folder)) for rows in sizes]))


if __name__ == "__main__":
    sys.exit(main())
