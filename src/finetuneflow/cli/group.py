"""Groups of commands with one manner: no arguments means help, a mistyped name gets the nearest one."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from finetuneflow.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout instead of text.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]

LONGEST_SUMMARY = 300


class Group(TyperGroup):
    """A group that shows its help when called bare, and suggests the nearest command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's, with `--help` for an empty command line."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As Typer's; an unknown name is a usage error with the nearest known one."""
        names = self.list_commands(ctx)
        if args[0] not in self.commands and args[0] not in names:
            nearest = difflib.get_close_matches(args[0], names, n=1)
            hint = f"did you mean `{ctx.command_path} {nearest[0]}`?" if nearest else "the commands are "
            raise UsageError(
                f"`{ctx.command_path}` has no command `{args[0]}`",
                hint if nearest else hint + ", ".join(f"`{name}`" for name in names),
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands, each with the whole first sentence of its help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, command.get_short_help_str(LONGEST_SUMMARY))
                    for name, command in commands
                    if command is not None and not command.hidden
                ]
            )


def new_app(text: str, *, cls: type[TyperGroup] = Group, epilog: str | None = None) -> typer.Typer:
    """A Typer application with the house's settings: plain help, no tracebacks, no installation flags."""
    return typer.Typer(
        cls=cls,
        help=text,
        epilog=epilog,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def examples(*lines: str) -> str:
    """The examples at the end of a help text, kept line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
