"""`finetuneflow doctor`: is this machine ready, and if not, what is to be done?"""

from __future__ import annotations

import sys

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import paint, print_line, say_error
from finetuneflow.services import machine
from finetuneflow.settings import load_settings

app = new_app("Check this machine.")
MARKS = {"ok": ("ok   ", "32"), "note": ("note ", "33"), "fault": ("fault", "1;31")}


@app.command(epilog=examples("finetuneflow doctor", "finetuneflow doctor --json"))
def doctor(as_json: Json = False) -> None:
    """Check packages, hardware, disk and workspace; every fault comes with its remedy.

    The exit code is 1 when something cannot work.
    """
    checks = machine.check_machine(load_settings())
    faults = sum(check.state == "fault" for check in checks)
    if as_json:
        print_json({"ready": not faults, "checks": checks})
    else:
        for check in checks:
            text, style = MARKS[check.state]
            print_line(f"{paint(text, style, sys.stdout)}  {check.name}: {check.finding}")
            if check.remedy:
                print_line(f"       → {check.remedy}")
    if faults:
        say_error(f"{faults} {'faults' if faults > 1 else 'fault'} found", "the remedies stand beside them")
        raise typer.Exit(1)
