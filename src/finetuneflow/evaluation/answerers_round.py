"""One arm on its way through the frozen questions: what is known is taken over, the rest is asked once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from finetuneflow.evaluation.answerers import Answerer, Conversation, Generation
from finetuneflow.evaluation.answerers_cache import AnswerCache
from finetuneflow.evaluation.items import AnswerLog, Progress, question_of
from finetuneflow.metrics import exact_match, rouge_l, token_f1
from finetuneflow.schemas.answerer import Answered, ArmSpeed
from finetuneflow.schemas.evaluation import Arm, Prediction, TestItem

Notify = Callable[[str], None]
NO_ANSWER = Answered(text="", seconds=0, busy_seconds=0, new_tokens=0, stopped=False)


def wordings(item: TestItem, retrieval: bool) -> Iterator[Conversation]:
    """The conversation with all its passages, then with ever fewer: the first passage is the best one."""
    if not retrieval or not item.rag_messages:
        yield item.messages
        return
    messages = item.rag_messages
    yield messages
    for passage in reversed(item.passages[1:]):
        messages = [
            {**turn, "content": turn["content"].replace(f"\n\n{passage}\n\n", "\n\n", 1)} for turn in messages
        ]
        yield messages
    yield item.messages


@dataclass
class Asked:
    """One item, and how it is asked."""

    item: TestItem
    wordings: list[Conversation]
    left_out: int = 0
    """Passages that had to be left out: the position of the wording in use."""

    @property
    def messages(self) -> Conversation:
        """The wording in use."""
        return self.wordings[self.left_out]

    def shorten(self) -> bool:
        """Leaves out one more passage; False when there is none."""
        self.left_out += 1
        if self.left_out < len(self.wordings):
            return True
        self.left_out -= 1
        return False


@dataclass
class Round:
    """One arm on its way through the items.

    Batches are cut from the whole list, also when a part is answered already: the same prompts share a batch
    on every run, and all answers of a batch are kept in one write. So an interrupted evaluation ends with the
    same answers.
    """

    answerer: Answerer
    arm: Arm
    how: Generation
    log: AnswerLog
    progress: Progress
    notify: Notify
    cache: AnswerCache
    asked: int = 0
    """Prompts that the answerer was given."""
    dropped: int = 0
    """Passages left out."""
    silenced: int = 0
    """Questions too long to be asked at all."""
    final: dict[str, str] = field(default_factory=dict)
    """Item id to the prompt that was answered."""

    def run(self, items: Sequence[TestItem], *, retrieval: bool = False) -> ArmSpeed:
        """Answers what is missing; gives the speed of the whole arm."""
        todo = [Asked(item, list(wordings(item, retrieval))) for item in items]
        fitting = []
        for row in todo:
            if self._fit(row):
                fitting.append(row)
            else:
                self._silence(row)
        while fitting:
            fitting = self._ask(fitting)
        if self.dropped:
            room = f"{self.answerer.limit} tokens" if self.answerer.limit else "no more than that"
            self.notify(
                f"{self.arm}: {self.dropped} passages left out, least relevant first: the model reads {room}"
            )
        if self.silenced:
            what = f"longer than {self.answerer.limit} tokens" if self.answerer.limit else "too long for it"
            self.notify(f"{self.arm}: {self.silenced} questions are {what} and count as wrong")
        return self._speed(len(items))

    def _fit(self, row: Asked) -> bool:
        """Leaves out passages until question and answer fit; False when not even the question does."""
        limit = self.answerer.limit
        if limit is None:
            return True
        while (size := self.answerer.size(row.messages)) + self.how.max_new_tokens > limit and row.shorten():
            self.dropped += 1
        return size < limit

    def _silence(self, row: Asked) -> None:
        self.silenced += 1
        self._keep([(row, NO_ANSWER)])

    def _keep(self, answers: Sequence[tuple[Asked, Answered]]) -> None:
        known = self.log.answers.get(self.arm, {})
        new = [(row.item, answer) for row, answer in answers if row.item.id not in known]
        if new:
            self.log.add(self.arm, [prediction(item, answer) for item, answer in new])
            self.progress.add(len(new))

    def _ask(self, rows: Sequence[Asked]) -> list[Asked]:
        """Answers what is missing; gives the rows to be asked again, with fewer passages."""
        by_prompt: dict[str, list[Asked]] = {}
        remembered: list[tuple[Asked, Answered]] = []
        for row in sorted(rows, key=lambda row: self.answerer.size(row.messages)):
            prompt = self.answerer.prompt(row.messages)
            self.final[row.item.id] = prompt
            by_prompt.setdefault(prompt, []).append(row)
        for prompt, same in by_prompt.items():
            if answer := self.cache.get(prompt):
                remembered += [(row, answer) for row in same]
        self._keep(remembered)
        prompts = list(by_prompt)
        size = self.answerer.batch or max(len(prompts), 1)
        again: list[Asked] = []
        for start in range(0, len(prompts), size):
            missing = [p for p in prompts[start : start + size] if self._is_missing(p, by_prompt[p])]
            if missing:
                again += self._ask_batch(missing, by_prompt)
        return again

    def _is_missing(self, prompt: str, rows: Sequence[Asked]) -> bool:
        known = self.log.answers.get(self.arm, {})
        return self.cache.get(prompt) is None and any(row.item.id not in known for row in rows)

    def _ask_batch(self, prompts: Sequence[str], by_prompt: Mapping[str, list[Asked]]) -> list[Asked]:
        again: list[Asked] = []
        self.progress.check()
        for found in self.answerer.answer([by_prompt[prompt][0].messages for prompt in prompts]):
            given = {prompts[position]: answer for position, answer in found.items() if not answer.refused}
            self.asked += len(found)
            self.cache.add(given)
            self._keep([(row, answer) for prompt, answer in given.items() for row in by_prompt[prompt]])
            for position, answer in found.items():
                if answer.refused:
                    again += self._shortened(by_prompt[prompts[position]])
            self.progress.check()
        return again

    def _shortened(self, rows: Sequence[Asked]) -> list[Asked]:
        again = []
        for row in rows:
            if row.shorten():
                self.dropped += 1
                again.append(row)
            else:
                self._silence(row)
        return again

    def _speed(self, items: int) -> ArmSpeed:
        found = {prompt: answer for prompt in self.final.values() if (answer := self.cache.get(prompt))}
        seconds = [found[prompt].seconds for prompt in self.final.values() if prompt in found]
        busy = sum(answer.busy_seconds for answer in found.values())
        counts = [answer.new_tokens for answer in found.values()]
        tokens = sum(count for count in counts if count is not None)
        counted = bool(counts) and None not in counts
        return ArmSpeed(
            answerer=self.answerer.identity,
            answers=items,
            asked=self.asked,
            cut=sum(not found[prompt].stopped for prompt in self.final.values() if prompt in found),
            latency_p50_seconds=quantile(seconds, 0.5),
            latency_p95_seconds=quantile(seconds, 0.95),
            new_tokens=tokens if counted else None,
            busy_seconds=busy,
            tokens_per_second=tokens / busy if counted and busy else None,
        )


def quantile(values: Sequence[float], share: float) -> float | None:
    """The value that this share of the values does not exceed, interpolated; None of nothing."""
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def prediction(item: TestItem, answer: Answered) -> Prediction:
    """An answer with its scores."""
    return Prediction(
        item_id=item.id,
        question=question_of(item),
        expected=item.expected,
        predicted=answer.text,
        exact_match=exact_match(answer.text, item.expected),
        token_f1=token_f1(answer.text, item.expected),
        rouge_l=rouge_l(answer.text, item.expected),
        latency_seconds=answer.seconds,
        question_type=item.question_type,
        wording_held_out=item.wording_held_out,
    )
