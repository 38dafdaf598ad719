"""Whoever answers: several requests at once, nothing asked twice, prompts that do not fit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from finetuneflow.errors import JobCancelled, ModelError
from finetuneflow.evaluation.answerers import (
    Conversation,
    Generation,
    Requests,
    api_key,
    context_for,
    open_requests,
)
from finetuneflow.evaluation.answerers_cache import AnswerCache
from finetuneflow.evaluation.answerers_round import Round, quantile
from finetuneflow.evaluation.items import AnswerLog, Progress
from finetuneflow.providers.chat import ChatText
from finetuneflow.schemas.answerer import Answered, AnswererSpec, ArmSpeed
from finetuneflow.schemas.evaluation import TestItem

HOW = Generation(max_new_tokens=8, seed=0, batch_size=2)


def asked(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


def item(name: str, *passages: str, question: str | None = None) -> TestItem:
    context = "\n\n".join(["Contexte :", *passages, f"Question : {name} ?"])
    return TestItem(
        id=name,
        messages=asked(question or f"{name} ?"),
        expected=name.upper(),
        passages=list(passages),
        rag_messages=asked(context) if passages else [],
    )


class Echo:
    """Answers in batches with the question's first word in capitals, and keeps what it was asked."""

    identity = "echo"
    batch: int | None = 2

    def __init__(self, limit: int | None = None, longest: int = 10_000) -> None:
        self.limit = limit
        self.longest = longest
        self.asked: list[list[str]] = []

    def prompt(self, messages: Conversation) -> str:
        return messages[-1]["content"]

    def size(self, messages: Conversation) -> int:
        return len(messages[-1]["content"])

    def answer(self, conversations: Sequence[Conversation]) -> Iterator[Mapping[int, Answered]]:
        texts = [messages[-1]["content"] for messages in conversations]
        self.asked.append(texts)
        yield {
            position: Answered(
                text=text.split()[0].upper(),
                seconds=0.5,
                busy_seconds=0.25,
                new_tokens=3,
                refused="too long" if len(text) > self.longest else "",
            )
            for position, text in enumerate(texts)
        }


class Bench:
    """One evaluation in a folder."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = folder
        self.cache = cache or folder / "answers"
        self.told: list[str] = []
        self.cancelled = False
        folder.mkdir(exist_ok=True)

    def run(self, echo: Echo, items: list[TestItem], *, retrieval: bool = False) -> ArmSpeed:
        log = AnswerLog(self.folder / "predictions.jsonl", items)
        progress = Progress(len(items), 0, lambda *_: None, lambda: self.cancelled)
        cache = AnswerCache(self.cache, echo.identity, HOW)
        speed = Round(echo, "base", HOW, log, progress, self.told.append, cache).run(
            items, retrieval=retrieval
        )
        self.answers = {name: row.predicted for name, row in log.answers["base"].items()}
        return speed


def test_a_second_evaluation_of_the_same_model_asks_nothing(tmp_path: Path) -> None:
    items = [item("orion"), item("vega"), item("mira")]
    shared = tmp_path / "shared"
    first, again = Echo(), Echo()
    assert Bench(tmp_path / "a", shared).run(first, items).asked == 3
    second = Bench(tmp_path / "b", shared)
    speed = second.run(again, [*items, item("rigel")])
    assert again.asked == [["rigel ?"]]
    assert (speed.asked, speed.answers) == (1, 4)
    assert second.answers == {"orion": "ORION", "vega": "VEGA", "mira": "MIRA", "rigel": "RIGEL"}


def test_other_settings_or_another_model_are_asked_anew(tmp_path: Path) -> None:
    answer = {"p": Answered(text="A", seconds=1, busy_seconds=1)}
    AnswerCache(tmp_path, "echo", HOW).add(answer)
    assert AnswerCache(tmp_path, "echo", HOW).get("p") == answer["p"]
    assert AnswerCache(tmp_path, "echo", HOW._replace(batch_size=64)).get("p") == answer["p"]
    assert AnswerCache(tmp_path, "other", HOW).get("p") is None
    assert AnswerCache(tmp_path, "echo", HOW._replace(max_new_tokens=9)).get("p") is None
    assert AnswerCache(tmp_path, "echo", HOW._replace(seed=1)).get("p") is None
    assert AnswerCache(tmp_path, "echo", HOW).get("q") is None


def test_an_answer_cut_short_on_the_disk_costs_only_itself(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, "echo", HOW)
    cache.add({"p": Answered(text="été", seconds=1, busy_seconds=1)})
    assert cache.path is not None
    with cache.path.open("ab") as file:
        file.write(b'{"prompt": "abc", "te')
    cache.add({"q": Answered(text="B", seconds=1, busy_seconds=1)})
    again = AnswerCache(tmp_path, "echo", HOW)
    found = [again.get(prompt) for prompt in ("p", "q")]
    assert [answer.text for answer in found if answer] == ["été", "B"]


def test_one_prompt_is_asked_once_however_many_items_have_it(tmp_path: Path) -> None:
    echo = Echo()
    bench = Bench(tmp_path / "a")
    speed = bench.run(echo, [item("a", question="same ?"), item("b", question="same ?")])
    assert echo.asked == [["same ?"]]
    assert bench.answers == {"a": "SAME", "b": "SAME"}
    assert (speed.asked, speed.new_tokens, speed.busy_seconds) == (1, 3, 0.25)


def test_a_stopped_round_goes_on_with_the_same_batches(tmp_path: Path) -> None:
    items = [item("a" * n) for n in range(1, 8)]
    whole = Echo()
    Bench(tmp_path / "whole").run(whole, items)
    bench, first, second = Bench(tmp_path / "part"), Echo(), Echo()

    class Stopping(Echo):
        def answer(self, conversations: Sequence[Conversation]) -> Iterator[Mapping[int, Answered]]:
            bench.cancelled = len(self.asked) == 1
            return super().answer(conversations)

    first = Stopping()
    with pytest.raises(JobCancelled):
        bench.run(first, items)
    bench.cancelled = False
    bench.run(second, items)
    assert first.asked + second.asked == whole.asked
    assert len(whole.asked) == 4


def test_passages_that_a_server_refuses_are_left_out_one_by_one(tmp_path: Path) -> None:
    echo, bench = Echo(longest=60), Bench(tmp_path / "a")
    speed = bench.run(
        echo,
        [item("orion", "x" * 20, "y" * 20), item("vega", "z" * 90), item("m" * 70, "short")],
        retrieval=True,
    )
    assert bench.answers == {"orion": "CONTEXTE", "vega": "VEGA", "m" * 70: ""}
    assert any("x" * 20 in text and "y" * 20 not in text for batch in echo.asked for text in batch)
    assert bench.told == [
        "base: 3 passages left out, least relevant first: the model reads no more than that",
        "base: 1 questions are too long for it and count as wrong",
    ]
    assert speed.answers == 3


def test_what_a_known_limit_leaves_no_room_for_is_not_even_asked(tmp_path: Path) -> None:
    echo, bench = Echo(limit=60), Bench(tmp_path / "a")
    bench.run(echo, [item("orion", "x" * 10, "y" * 20), item("m" * 70, "short")], retrieval=True)
    assert bench.answers["m" * 70] == ""
    assert [len(batch) for batch in echo.asked] == [1]
    assert "y" * 20 not in echo.asked[0][0]
    assert bench.told[-1] == "base: 1 questions are longer than 60 tokens and count as wrong"


def test_several_requests_are_under_way_at_once_and_their_shares_add_up() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def ask(messages: Conversation) -> ChatText:
        meeting.wait()  # nobody gets on unless three are here
        return ChatText(f" {messages[0]['content']} ", 5.0, 2, True)

    started = time.perf_counter()
    found: dict[int, Answered] = {}
    for part in Requests("x", ask, 3).answer([asked(str(number)) for number in range(6)]):
        found |= part
    wall = time.perf_counter() - started
    assert {position: answer.text for position, answer in found.items()} == {n: str(n) for n in range(6)}
    assert sum(answer.busy_seconds for answer in found.values()) <= wall
    assert {answer.seconds for answer in found.values()} == {5.0}


def test_an_error_is_raised_after_what_was_answered_before_it() -> None:
    def ask(messages: Conversation) -> ChatText:
        if messages[0]["content"] == "2":
            raise ModelError("it fell over")
        return ChatText("A", 0.0, None, True)

    parts = Requests("x", ask, 1).answer([asked(str(number)) for number in range(4)])
    assert [list(next(parts)) for _ in range(3)] == [[0], [1], []]
    with pytest.raises(ModelError, match="fell over"):
        next(parts)


def test_the_context_of_ollama_holds_the_longest_conversation_in_few_sizes() -> None:
    assert context_for([], 96) == context_for([asked("a" * 1000)], 96) == 2048
    assert context_for([asked("a"), asked("a" * 6000)], 96) == 4096
    assert context_for([asked("漢" * 3000)], 96) == 6144
    assert context_for([asked("a" * 10**6)], 96) == 32768


def test_a_key_goes_to_no_server_that_it_was_not_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTF_ENDPOINT_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert api_key("https://api.openai.com/v1") == "sk-openai"
    assert api_key("https://api.openai.com.example/v1") is None
    assert api_key("http://127.0.0.1:8000/v1") is None
    monkeypatch.setenv("FTF_ENDPOINT_API_KEY", "mine")
    assert api_key("http://127.0.0.1:8000/v1") == "mine"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    spec = AnswererSpec(kind="gguf", model=str(tmp_path / "none.gguf"))
    with pytest.raises(Exception, match=r"none\.gguf"), open_requests(spec, HOW):
        pass


@pytest.mark.parametrize(
    ("values", "half", "most"), [([], None, None), ([2.0], 2.0, 2.0), ([1.0, 2.0, 3.0], 2.0, 2.9)]
)
def test_quantiles_of_few_values(values: list[float], half: float | None, most: float | None) -> None:
    assert quantile(values, 0.5) == half
    assert quantile(values, 0.95) == (most if most is None else pytest.approx(most))
