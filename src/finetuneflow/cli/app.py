"""The entry point: a lazy group. A command's module is imported only when that command is called.

`finetuneflow --help` therefore costs no more than Typer itself; a test holds it under 300 ms.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from finetuneflow import __version__
from finetuneflow.cli.group import Group, new_app
from finetuneflow.cli.output import print_line, say_error
from finetuneflow.errors import FineTuneFlowError

SECTIONS: dict[str, dict[str, str]] = {
    "The loop": {
        "demo": "Run the whole loop on sample data, in a few minutes",
        "dataset": "Make datasets from records and documents; check, split and measure them",
        "train": "Fine-tune a model from a recipe or a dataset",
        "evaluate": "Compare the tuned model with the base model, with and without retrieval",
        "gate": "Say whether a model may be deployed",
        "forgetting": "Look for what a tuned model no longer does",
        "errors": "Explain a classifier's wrong predictions, and make training examples of them",
        "export": "Write the adapter, the merged model, a checked GGUF file, a report and a zip",
        "deploy": "Register a model in Ollama, or serve it over HTTP",
        "retrieval": "Look up passages, and measure how often the right one is found",
        "predict": "Answer questions with a tuned model or an exported file",
        "chat": "Talk to a tuned model or an exported file",
    },
    "What there is": {
        "runs": "List, show, follow, resume and cancel runs",
        "compare": "Put the evaluations of several runs side by side",
        "jobs": "List, follow and cancel jobs of every kind",
        "registry": "Say which model serves which role: promote, roll back, history",
        "verify": "Check that an export is whole, file by file",
        "push": "Upload an export to the model hub, private unless asked",
        "recipes": "Show the shipped recipes and every key of a recipe",
        "models": "List the embedded base models",
        "doctor": "Check this machine and the workspace",
    },
}
COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}
MODULE = "finetuneflow.cli.{}"
EPILOG = """\b
Examples:
  finetuneflow demo
  finetuneflow dataset from-records catalogue.csv --out dataset.jsonl
  finetuneflow train --dataset dataset.jsonl --base-model embedded:tiny
  finetuneflow evaluate RUN

\b
Everything is kept in one folder, FTF_HOME (default ~/.finetuneflow).
Data goes to stdout, messages go to stderr; every command takes --json.
"""


class LazyGroup(Group):
    """A group that knows its commands by name and help text, and imports one when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, its module imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            command = get_command(importlib.import_module(MODULE.format(cmd_name)).app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands by section, from the table: nothing is imported."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


app = new_app(
    "Documents, records and mistakes in; a proven fine-tuned model out.", cls=LazyGroup, epilog=EPILOG
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"finetuneflow {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Documents, records and mistakes in; a proven fine-tuned model out."""


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and gives its exit code; whatever goes wrong, a person can read it."""
    try:
        code = get_command(app).main(args=list(arguments), prog_name="finetuneflow", standalone_mode=False)
        sys.stdout.flush()
    except FineTuneFlowError as error:
        say_error(error.message, error.hint)
        return error.exit_code
    except TyperException as error:
        return _usage_error(error)
    except (KeyboardInterrupt, typer.Abort):
        say_error("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever read us (`head`, a closed pager) has enough. Python would complain again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            _report_crash(error)
        else:
            say_error(f"`{error.filename}`: {(error.strerror or str(error)).lower()}")
        return 1
    except Exception as error:
        _report_crash(error)
        return 1
    return code if isinstance(code, int) else 0


def _report_crash(error: BaseException) -> None:
    importlib.import_module("finetuneflow.cli.crash").report_crash(error)


def _usage_error(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "finetuneflow"
    message = error.format_message().strip().rstrip(".")
    say_error(message[:1].lower() + message[1:], f"see `{path} --help`")
    return error.exit_code


def main(arguments: Sequence[str] | None = None) -> None:
    """The `finetuneflow` and `ftf` programs."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))
