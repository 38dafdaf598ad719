"""`finetuneflow verify`: is a bundle whole?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import say, say_warning
from finetuneflow.cli.progress import display
from finetuneflow.cli.tables import percent, print_fields, print_table
from finetuneflow.export.bundle_check import BundleParity
from finetuneflow.schemas.event import ProgressEvent
from finetuneflow.services import bundles

app = new_app("Check a bundle against its manifest.")
MEGABYTE = 1_000_000
QUIET_SECONDS = 1.0


@app.command(
    epilog=examples("finetuneflow verify my-model.zip", "finetuneflow verify my-model/ --json"),
)
def verify(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="A zip, or the folder of an export.", show_default=False),
    ],
    as_json: Json = False,
) -> None:
    """Check every file of a bundle by size and SHA-256; exit code 1 when it is not whole."""
    started = time.monotonic()
    with display() as screen:

        def progress(done: int, total: int) -> None:
            if time.monotonic() - started > QUIET_SECONDS:
                step, steps = done // MEGABYTE, max(total // MEGABYTE, 1)
                screen.show(ProgressEvent(stage="verify, MB", step=step, total_steps=steps))

        found = bundles.verify(bundle, on_progress=progress)
    if as_json:
        print_json(found)
    else:
        print_fields(
            (
                ("bundle", found.path),
                ("name", found.name),
                ("run", found.run_id),
                ("files", found.files),
                ("bytes", found.size_bytes),
                *_parity_fields(found.parity),
            )
        )
        if found.bad:
            print_table(("bad", "problem"), ((bad.path, bad.problem) for bad in found.bad))
    if found.parity and not found.parity.passed:
        say_warning(
            f"the GGUF file failed its check: {found.parity.first_difference or 'see ' + found.parity.path}"
        )
    if found.whole:
        say("Whole: every file is as the manifest says.")
        return
    say(f"Not whole: {len(found.bad)} {'thing is' if len(found.bad) == 1 else 'things are'} bad.")
    raise typer.Exit(1)


def _parity_fields(parity: BundleParity | None) -> tuple[tuple[str, object], ...]:
    if parity is None:
        return ()
    same = {True: "the file that was checked", False: "NOT the file that was checked", None: "not said"}
    return (
        (
            "parity",
            f"{'passed' if parity.passed else 'FAILED'} ({parity.quantization}, {parity.prompts} prompts, "
            f"same most likely token {percent(parity.top1_agreement)}, median largest log-probability "
            f"difference {parity.median_max_logprob_difference:.3g})",
        ),
        ("GGUF", f"{parity.gguf}: {same[parity.same_file]}" if parity.gguf else ""),
    )
