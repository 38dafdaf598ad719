"""`finetuneflow evaluate`: is the tuned model better than what it came from?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from finetuneflow.cli.group import Json, examples, new_app
from finetuneflow.cli.json_output import print_json
from finetuneflow.cli.output import print_line, say
from finetuneflow.cli.progress import follow_to_end
from finetuneflow.cli.runs import RunId
from finetuneflow.cli.scores import ARM_NAMES, print_evaluation
from finetuneflow.cli.tables import print_table
from finetuneflow.errors import UsageError
from finetuneflow.schemas.answerer import ArmSpeeds
from finetuneflow.schemas.evaluation import EvaluationConfig
from finetuneflow.services import answerers, evaluations
from finetuneflow.services.context import using_context

app = new_app("Evaluate a run.")
DEFAULTS = EvaluationConfig()
ARMS = ("base", "rag", "tuned", "tuned_rag")


@app.command(
    epilog=examples(
        "finetuneflow evaluate RUN",
        "finetuneflow evaluate RUN --sources catalogue.csv --sources guide.pdf",
        "finetuneflow evaluate RUN --sources catalogue.csv --arms base,rag,tuned,tuned_rag",
        "finetuneflow evaluate RUN --export EXPORT --against ollama:llama3.2",
        "finetuneflow evaluate RUN --against endpoint:http://127.0.0.1:8000/v1#large --against RUN2",
        "finetuneflow evaluate RUN --json > evaluation.json",
    )
)
def evaluate(
    run_id: RunId,
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--sources",
            "-s",
            metavar="FILE",
            help="Records or documents that the base model may search; may be repeated.",
            show_default=False,
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--mapping", help="Field mapping of the records (default: guessed).", show_default=False
        ),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            "--arms",
            metavar="NAMES",
            help="Of base, rag, tuned, tuned_rag, with commas between (default: the first three; those with "
            "rag need --sources).",
            show_default=False,
        ),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            "--export",
            metavar="EXPORT",
            help="Judge this GGUF file, by the id of its export or its path, as the tuned model.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="WHO",
            help="Ask the same questions of another: ollama:NAME, endpoint:URL#MODEL (its key in "
            "FTF_ENDPOINT_API_KEY), a run, an export or a GGUF file; with +rag at the end it is given the "
            "passages; may be repeated.",
            show_default=False,
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            "--parallel",
            min=1,
            help="Requests at a time to --export and --against (default: 4; Ollama 1).",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        Literal["exact_match", "token_f1", "accuracy"],
        typer.Option("--metric", help="What the verdict judges."),
    ] = DEFAULTS.metric,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0, max=1, help="The verdict demands more than this score.")
    ] = DEFAULTS.min_score,
    min_improvement: Annotated[
        float,
        typer.Option(
            "--min-improvement", min=0, max=1, help="… and to be this much better than the best baseline."
        ),
    ] = DEFAULTS.min_improvement,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest answer, tokens.")
    ] = DEFAULTS.max_new_tokens,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Questions that a local model reads together.")
    ] = evaluations.BATCH_SIZE,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the intervals.")] = DEFAULTS.seed,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask again what these models answered in an earlier evaluation.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and come back at once.")] = False,
    as_json: Json = False,
) -> None:
    """Answer the test split with the base model and the tuned one, compare them and give a verdict.

    With --sources the base model also answers with retrieval over these files.
    """
    config = EvaluationConfig(
        arms=_arms(arms, searching=bool(sources)),
        metric=metric,
        min_score=min_score,
        min_improvement=min_improvement,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
    with using_context() as context:
        others = answerers.named(context, run_id, export=export, against=against or (), parallel=parallel)
        job = evaluations.start(
            context,
            run_id,
            sources=sources or (),
            config=config,
            mapping=mapping,
            answerers=others,
            fresh=fresh,
        )
        say(f"Evaluation {job.id} of run {run_id}")
        if detach:
            if as_json:
                print_json(job)
            else:
                print_line(job.id)
            return
        job = follow_to_end(context, job.id)
        result = evaluations.result(context, job.id)
        speeds = evaluations.speeds(context, job.id)
    if as_json:
        print_json(result)
        return
    print_evaluation(result)
    _print_speeds(speeds)
    say()
    say(f"All predictions: {Path(job.folder) / result.predictions_path}")
    say(f"Next: finetuneflow export {run_id} --out DIR")


def _arms(names: str | None, *, searching: bool) -> list[str]:
    """The arms that `--arms` names."""
    if names is None:
        return DEFAULTS.arms
    arms = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in arms if name not in ARMS]
    if unknown or not arms:
        raise UsageError(
            f"there is no arm `{', '.join(unknown)}`" if unknown else "--arms names none",
            f"choose among {', '.join(ARMS)}; --against adds others",
        )
    if not searching and (missing := [name for name in arms if name.endswith("rag")]):
        raise UsageError(
            f"the arm `{missing[0]}` has nothing to search", "give the files to be searched with --sources"
        )
    return arms


def _print_speeds(speeds: ArmSpeeds) -> None:
    if not speeds.arms:
        return
    print_line()
    rows = [
        (
            ARM_NAMES.get(name, name),
            speed.asked,
            _milliseconds(speed.latency_p50_seconds),
            _milliseconds(speed.latency_p95_seconds),
            "" if speed.tokens_per_second is None else f"{speed.tokens_per_second:,.0f}",
            speed.cut,
        )
        for name, speed in speeds.arms.items()
    ]
    print_table(("", "asked now", "p50", "p95", "tokens/s", "cut"), rows)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.0f} ms"
