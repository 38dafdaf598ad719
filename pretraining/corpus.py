"""The corpus: pages from gzip files, the held-out split, the tokenizer and the token stream."""

import gzip
import hashlib
import json
import random
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT, TURN_START, TURN_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL_TOKENS = [END_OF_TEXT, TURN_START, TURN_END, PAD]
VOCABULARY = 8192
CONTEXT_TOKENS = 1024
HELD_OUT_PERCENT = 2
LEAST_ZLIB_RATIO = 0.18
"""Below it a page is a generated reference that repeats itself; prose is at 0.35 and above."""

# The generation marks let `return_assistant_tokens_mask=True` find what the assistant said.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}\n"
    "{%- if message['role'] == 'assistant' -%}\n"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}\n"
    "{%- else -%}\n"
    "{{- message['content'] + '<|im_end|>' -}}\n"
    "{%- endif -%}\n"
    "{{- '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n"
)

_PAGE_MARK = re.compile(r"^<<< (.+?) >>>\n", re.MULTILINE)
_HTML_COMMENT = re.compile(r"<!--.*?-->|\{/\*.*?\*/\}", re.DOTALL)
_HEADING_ANCHOR = re.compile(r"[ \t]*\{ ?#[\w-]+ ?\}[ \t]*$", re.MULTILINE)
_INLINE_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_CODE_FENCE = re.compile(r"^([ \t]*)(`{3,})[^\n]*\n(.*?)^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
_BLANK_LINES = re.compile(r"\n{3,}")
_LONG_CODE_LINES = 12


@dataclass(frozen=True)
class Page:
    """One page of documentation: `path` is unique, `language` is `en` or `fr`."""

    path: str
    language: str
    text: str
    held_out: bool


def read_pages(folder: Path) -> list[Page]:
    """All pages of `<language>-<source>.txt.gz` files that are mostly prose, in a fixed order."""
    pages = []
    for archive in sorted(folder.glob("*.txt.gz")):
        source = archive.name.removesuffix(".txt.gz")
        pieces = _PAGE_MARK.split(gzip.decompress(archive.read_bytes()).decode("utf-8"))
        for name, raw in zip(pieces[1::2], pieces[2::2], strict=True):
            path, text = f"{source}/{name}", clean(raw)
            if len(text) >= 200 and _looks_like_prose(text):
                digest = int(hashlib.sha256(path.encode()).hexdigest(), 16)
                pages.append(Page(path, source[:2], text, digest % 100 < HELD_OUT_PERCENT))
    return pages


def clean(text: str) -> str:
    """`text` without comments, anchors, images and long code blocks; prose stays as written."""
    text = _HTML_COMMENT.sub("", text)
    text = _HEADING_ANCHOR.sub("", text)
    text = _INLINE_IMAGE.sub("", text)
    text = _CODE_FENCE.sub(_keep_short_code, text)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return _BLANK_LINES.sub("\n\n", text).strip() + "\n"


def _keep_short_code(block: re.Match[str]) -> str:
    return block.group(0) if block.group(3).count("\n") <= _LONG_CODE_LINES else ""


def _looks_like_prose(text: str) -> bool:
    """Whether most characters stand in lines that are neither code nor table rows, and say something new."""
    if len(zlib.compress(text.encode())) < LEAST_ZLIB_RATIO * len(text.encode()):
        return False
    prose = sum(
        len(line) for line in text.splitlines() if not line.startswith(("|", "    ", "\t", "+--", "<"))
    )
    letters = sum(char.isalpha() or char == " " for char in text)
    return prose > 0.5 * len(text) and letters > 0.7 * len(text)


def prose_paragraphs(pages: Iterable[Page], language: str, held_out: bool = False) -> list[tuple[str, str]]:
    """(heading, paragraph) pairs of training or held-out pages: plain sentences, 120 to 700 characters."""
    found = []
    for page in pages:
        if page.language != language or page.held_out != held_out:
            continue
        heading = ""
        for block in page.text.split("\n\n"):
            line = block.strip()
            if line.startswith("#"):
                heading = line.split("\n")[0].strip("#* ").replace("`", "")
                continue
            flat = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(line.split()))
            flat = re.sub(r"[`*]", "", flat)
            plain = flat[:1].isupper() and flat.endswith(".") and not re.search(r"[<>{}\[\]|=\\]|::|//", flat)
            if heading and len(heading) < 70 and 120 <= len(flat) <= 700 and plain:
                found.append((heading, flat))
    return found


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 8,192 tokens: any text round-trips, each digit is a token.

    Served with the pre-tokenizer of SmolLM (each digit, then the GPT-2 pattern; `smollm` in llama.cpp), it is
    trained with a finer one that parts the space from a capitalised word. So no merge joins the two: a name
    is the same tokens at the start of an answer as in the middle of a line, which makes copying easier.
    """
    tokenizer = Tokenizer(models.BPE())
    served = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    parted = pre_tokenizers.Split(Regex(r" (?=\p{Lu})"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([parted, *served])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(served)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        bos_token=None,
        unk_token=None,
        additional_special_tokens=[END_OF_TEXT, TURN_START],
        clean_up_tokenization_spaces=False,
        add_prefix_space=False,
        model_max_length=CONTEXT_TOKENS,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in `folder`."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


class TokenStream:
    """Training pages as one endless stream of tokens, reshuffled each epoch, French pages twice."""

    def __init__(self, pages: list[Page], tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        kept = [page for page in pages if not page.held_out]
        end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
        encoded = tokenizer([page.text for page in kept], add_special_tokens=False)["input_ids"]
        self._pages = [np.array([*ids, end], dtype=np.uint16) for ids in encoded]
        self._order = [
            index for index, page in enumerate(kept) for _ in range(2 if page.language == "fr" else 1)
        ]
        self._seed = seed
        self._tokens = np.zeros(0, dtype=np.uint16)
        self._epoch = -1
        self._shuffled: list[int] = []
        self.epoch_tokens = sum(len(self._pages[index]) for index in self._order)
        self._blocks = (self.epoch_tokens - 1) // CONTEXT_TOKENS

    def rows(self, step: int, count: int, length: int) -> np.ndarray:
        """The `count` rows of `length` + 1 tokens of one step; the last token of a row is only a target.

        A row is cut from a block of `CONTEXT_TOKENS`; blocks come in random order, so a step sees many pages.
        """
        per_block = CONTEXT_TOKENS // length
        blocks = count // per_block
        found = []
        for number in range(step * blocks, (step + 1) * blocks):
            start = self._block(number) * CONTEXT_TOKENS
            found += [self._tokens[start + part * length :][: length + 1] for part in range(per_block)]
        return np.stack(found).astype(np.int64)

    def _block(self, number: int) -> int:
        """Where the block that comes `number`-th stands; a new epoch orders pages and blocks anew."""
        epoch, place = divmod(number, self._blocks)
        if epoch != self._epoch:
            rng = random.Random(f"{self._seed}/{epoch}")
            order = rng.sample(self._order, len(self._order))
            self._tokens = np.concatenate([self._pages[index] for index in order])
            self._shuffled = rng.sample(range(self._blocks), self._blocks)
            self._epoch = epoch
        return self._shuffled[place]


def describe(pages: list[Page]) -> str:
    """A one-line JSON summary: pages and bytes per language, trained and held out."""
    summary: dict[str, dict[str, int]] = {}
    for page in pages:
        entry = summary.setdefault(
            page.language + ("-held-out" if page.held_out else ""), {"pages": 0, "bytes": 0}
        )
        entry["pages"] += 1
        entry["bytes"] += len(page.text.encode())
    return json.dumps(summary)
