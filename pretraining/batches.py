"""Training batches: half the rows are corpus text, half are exercises packed whole, never cut."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from corpus import END_OF_TEXT, SPECIAL_TOKENS, TURN_END, TURN_START, VOCABULARY, TokenStream
from exercises import Exercise, make_exercise
from records import Prose
from transformers import PreTrainedTokenizerFast

IGNORED = -100
_GROUP = 24


@dataclass(frozen=True)
class Mix:
    """What one step is made of.

    `drills` is the share of exercise rows that are echo drills; `late` (0 to 1) goes from plain copying to
    the full mix of exercises.
    """

    rows: int
    length: int
    drills: float
    late: float


@dataclass(frozen=True)
class Batch:
    """Rows of shape (rows, length): first `text_rows` of corpus text, then drills, then exercises."""

    inputs: torch.Tensor
    targets: torch.Tensor
    text_rows: int
    drill_rows: int


@dataclass(frozen=True)
class Encoded:
    """A conversation: tokens, which of them the assistant says, and where each of its answers ends."""

    tokens: list[int]
    marks: list[bool]
    ends: list[int]


class ChatEncoder:
    """Turns conversations into tokens and answer marks, as the chat template does but in bulk."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = tokenizer.backend_tokenizer
        self.end, self._start, self._stop = tokenizer.convert_tokens_to_ids(
            [END_OF_TEXT, TURN_START, TURN_END]
        )
        self._newline = self._encode(["\n"])[0][0]
        self._assistant = self._encode(["assistant\n"])[0]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def encode(self, exercises: list[Exercise]) -> list[Encoded]:
        """Each conversation in tokens, without a final `<|endoftext|>`."""
        turns = [message for exercise in exercises for message in exercise.messages]
        spoken = [turn["role"] == "assistant" for turn in turns]
        texts = [
            turn["content"] if said else f"{turn['role']}\n{turn['content']}"
            for turn, said in zip(turns, spoken, strict=True)
        ]
        encoded = iter(zip(self._encode(texts), spoken, strict=True))
        result = []
        for exercise in exercises:
            one = Encoded([], [], [])
            for _ in exercise.messages:
                content, said = next(encoded)
                head = [self._start, *(self._assistant if said else [])]
                one.tokens.extend([*head, *content, self._stop, self._newline])
                one.marks.extend([False] * len(head) + [said] * (len(content) + 1) + [False])
                if said:
                    one.ends.append(len(one.tokens))
            result.append(one)
        return result


class BatchMaker:
    """The batch of any step, from the seed alone, so that a resumed run sees the same data."""

    def __init__(self, stream: TokenStream, encoder: ChatEncoder, prose: Prose, seed: int) -> None:
        self._stream, self._encoder, self._prose, self._seed = stream, encoder, prose, seed

    def make(self, step: int, mix: Mix) -> Batch:
        """Half corpus text, half exercises and drills."""
        rng = random.Random(f"{self._seed}/exercises/{step}")
        half = mix.rows // 2
        drills = round(mix.drills * (mix.rows - half))
        text = self._stream.rows(step, half, mix.length)
        drilled, drill_marks = self._drill(rng, text, drills)
        packed, marks = self._pack(rng, mix.rows - half - drills, mix.length + 1, mix.late)
        tokens = np.concatenate([text, drilled, packed])
        targets = tokens[:, 1:].copy()
        targets[half:][~np.concatenate([drill_marks, marks])[:, 1:]] = IGNORED
        return Batch(torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(targets), half, drills)

    def _drill(self, rng: random.Random, text: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows in which a few snatches, of real text or of random tokens, come again and again.

        Every token of a snatch that was there before is supervised, but for the first: looking back for
        what followed the last time is all there is to learn.
        """
        room = text.shape[1]
        tokens = np.zeros((rows, room + 64), dtype=np.int64)
        marks = np.zeros((rows, room + 64), dtype=bool)
        for row in range(rows):
            snatches = []
            for _ in range(rng.randint(1, 4)):
                size = rng.randint(4, 48)
                start = rng.randrange(room - size)
                real = text[rng.randrange(len(text)), start : start + size]
                made = [rng.randrange(len(SPECIAL_TOKENS), VOCABULARY) for _ in range(size)]
                snatches.append(real if rng.random() < 0.6 else np.array(made))
            place, seen = 0, set()
            while place < room:
                chosen = rng.randrange(len(snatches))
                size = len(snatches[chosen])
                tokens[row, place : place + size] = snatches[chosen]
                marks[row, place + 1 : place + size] = chosen in seen
                seen.add(chosen)
                place += size
        return tokens[:, :room], marks[:, :room]

    def _pack(self, rng: random.Random, rows: int, room: int, late: float) -> tuple[np.ndarray, np.ndarray]:
        """Exercises put into the first row with room for at least one of their answers.

        Turns that do not fit are left out, and so are exercises that fit nowhere.
        """
        tokens = np.full((rows, room), self._encoder.end, dtype=np.int64)
        marks = np.zeros((rows, room), dtype=bool)
        filled = [0] * rows
        groups = 0
        while sum(filled) < 0.97 * rows * room and groups < 10:
            made = [make_exercise(rng, self._prose, late) for _ in range(_GROUP)]
            for one in self._encoder.encode(made):
                row = next((index for index in range(rows) if filled[index] + one.ends[0] < room), None)
                if row is not None:
                    size = max(end for end in one.ends if filled[row] + end < room)
                    place = slice(filled[row], filled[row] + size)
                    tokens[row, place], marks[row, place] = one.tokens[:size], one.marks[:size]
                    filled[row] += size + 1
            groups += 1
        return tokens, marks
