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
from finetuneflow.cli.scores import print_evaluation
from finetuneflow.schemas.evaluation import EvaluationConfig
from finetuneflow.services import evaluations
from finetuneflow.services.context import using_context

app = new_app("Evaluate a run.")
DEFAULTS = EvaluationConfig()


@app.command(
    epilog=examples(
        "finetuneflow evaluate RUN",
        "finetuneflow evaluate RUN --sources catalogue.csv --sources guide.pdf",
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
    seed: Annotated[int, typer.Option("--seed", help="Seed of the intervals.")] = DEFAULTS.seed,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and come back at once.")] = False,
    as_json: Json = False,
) -> None:
    """Answer the test split with the base model and the tuned one, compare them and give a verdict.

    With --sources the base model also answers with retrieval over these files.
    """
    config = EvaluationConfig(
        metric=metric,
        min_score=min_score,
        min_improvement=min_improvement,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    with using_context() as context:
        job = evaluations.start(context, run_id, sources=sources or (), config=config, mapping=mapping)
        say(f"Evaluation {job.id} of run {run_id}")
        if detach:
            if as_json:
                print_json(job)
            else:
                print_line(job.id)
            return
        job = follow_to_end(context, job.id)
        result = evaluations.result(context, job.id)
    if as_json:
        print_json(result)
        return
    print_evaluation(result)
    say()
    say(f"All predictions: {Path(job.folder) / result.predictions_path}")
    say(f"Next: finetuneflow export {run_id} --out DIR")
