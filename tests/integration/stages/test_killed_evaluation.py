"""An evaluation killed at random moments and started again answers nothing twice and ends the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.artifacts import write_lines
from finetuneflow.schemas.answerer import AnswererSpec, Answering
from finetuneflow.schemas.evaluation import EvaluateInputs, EvaluationConfig, TestItem
from finetuneflow.schemas.job import JobSpec

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ITEMS = 24
KILLS = 4
PARALLEL = 3
SECONDS = 120


@dataclass
class Server:
    """An OpenAI-compatible endpoint that takes its time, and counts how often it was asked what."""

    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][-1]["content"]
            found.asked[question] += 1
            time.sleep(0.02)
            message = {"role": "assistant", "content": question.upper()}
            reply = {
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"completion_tokens": 2},
            }
            data = json.dumps(reply).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # who asked was killed

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield found
    http.shutdown()
    thread.join()
    http.server_close()


def lay_out(folder: Path, trained: Any, server: Server) -> list[TestItem]:
    """A job folder as the service makes it: 24 questions for a local model and for the endpoint."""
    folder.mkdir()
    items = [
        TestItem(id=str(n), messages=[{"role": "user", "content": f"{'x' * (n % 5)}{n} ?"}], expected="oui")
        for n in range(ITEMS)
    ]
    write_lines(folder / "items.jsonl", (item.model_dump_json() for item in items))
    endpoint = AnswererSpec(kind="endpoint", model="m", url=server.url, parallel=PARALLEL)
    answering = Answering(arms={"other": endpoint}, cache=str(folder / "shared"))
    (folder / "answerers.json").write_text(answering.model_dump_json(), encoding="utf-8")
    config = EvaluationConfig(arms=["tuned", "other"], max_new_tokens=8, batch_size=2, bootstrap_samples=100)
    inputs = EvaluateInputs(
        items=str(folder / "items.jsonl"),
        base_model=str(trained.base),
        adapter=str(trained.adapter),
        precision="fp32",
    )
    spec = JobSpec(
        id="eval-1",
        kind="evaluate",
        config=config.model_dump(mode="json"),
        inputs=inputs.model_dump(mode="json"),
        resume=True,
    )
    (folder / "job.json").write_text(spec.model_dump_json(), encoding="utf-8")
    return items


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The worker that the supervisor would start."""
    command = [sys.executable, "-m", "finetuneflow.jobs.worker", str(folder)]
    return subprocess.Popen(command, env=os.environ | {"FTF_THREADS": "1", "OMP_NUM_THREADS": "1"})


def given(folder: Path) -> list[tuple[str, str, str]]:
    """Arm, item and answer of every whole line of the predictions."""
    path = folder / "predictions.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [(row["arm"], row["item_id"], row["predicted"]) for row in map(json.loads, lines)]


def kill_after(folder: Path, answers: int, delay: float) -> bool:
    """Starts the worker and kills it once there are so many answers; false when it ended before."""
    process = start(folder)
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and len(given(folder)) < answers:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return not ended


def test_no_answer_is_given_twice_and_the_end_is_the_same(
    trained: Any, server: Server, tmp_path: Path
) -> None:
    items = lay_out(tmp_path / "whole", trained, server)
    assert start(tmp_path / "whole").wait(SECONDS) == 0
    assert server.asked == {item.messages[0]["content"]: 1 for item in items}
    server.asked.clear()

    rng = random.Random()  # noqa: S311 - moments to kill at
    folder = tmp_path / "part"
    lay_out(folder, trained, server)
    questions = {item.id: item.messages[0]["content"] for item in items}
    moments = sorted(rng.sample(range(1, 2 * ITEMS - PARALLEL), KILLS))
    for moment in [*moments, None]:
        before, counts = given(folder), Counter(server.asked)
        if moment is None:
            assert start(folder).wait(SECONDS) == 0
        else:
            assert kill_after(folder, moment, rng.uniform(0, 0.02)), "it ended before it was killed"
            assert set(before) <= set(given(folder)), "what was given stays"
        known = [questions[item_id] for arm, item_id, _ in before if arm == "other"]
        assert [question for question in known if server.asked[question] != counts[question]] == []

    assert given(folder) == given(tmp_path / "whole")
    assert len({answer for arm, _, answer in given(folder) if arm == "tuned"}) > 2
    assert [question for question in known if server.asked[question] != counts[question]] == []
    # Only what was under way when the process died is asked again.
    assert server.asked.total() <= ITEMS + KILLS * PARALLEL
    keys = [
        json.loads(line)["prompt"]
        for path in (folder / "shared").iterdir()
        for line in path.read_bytes().split(b"\n")
        if line.endswith(b"}")
    ]
    assert len(keys) == len(set(keys)) == 2 * ITEMS
    results = [
        json.loads((tmp_path / name / "result.json").read_bytes())["result"] for name in ("whole", "part")
    ]
    for result in results:
        del result["seconds"]
        result["errors"] = [error["item_id"] for error in result["errors"]]  # with a time each
        for arm in result["arms"].values():
            for scores in (arm["overall"], *arm["by_question_type"].values()):
                del scores["latency_mean_seconds"], scores["latency_p95_seconds"]
    assert results[0] == results[1]
