"""Retrieval: passages of sources, an index over them, what it finds, and how often that is right."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import get_args

import yaml

from finetuneflow.artifacts import INDEXES
from finetuneflow.dataset.field_mapping import guess_mapping, load_mapping
from finetuneflow.dataset.record_text import record_passage
from finetuneflow.errors import InputError, StorageError, UsageError
from finetuneflow.ingest.chunk import chunk_document
from finetuneflow.ingest.read import RECORD_SUFFIXES, read_document, read_records
from finetuneflow.modeling.encoder import Encoder, open_encoder
from finetuneflow.providers.embeddings import EmbeddingClient
from finetuneflow.retrieval import measure as figures
from finetuneflow.retrieval.index import Index, build_index
from finetuneflow.retrieval.prompt import Language
from finetuneflow.retrieval.relevant import from_examples, from_spans
from finetuneflow.retrieval.squad import Squad, read_squad
from finetuneflow.schemas.retrieval import (
    Found,
    Kind,
    KindFigures,
    Miss,
    Passage,
    RetrievalConfig,
    RetrievalDifference,
    RetrievalReport,
    SourcedQuestion,
)
from finetuneflow.services import datasets
from finetuneflow.settings import load_settings

KINDS: tuple[Kind, ...] = get_args(Kind)
COMPARED_AT = 5
"""The k at which kinds are compared."""
MOST_MISSES = 50
MANY_PASSAGES = 3000
"""From here on an index by words takes seconds the first time."""
BATCH = 64
"""Questions searched between two words on progress."""
ENGLISH_ENCODERS = ("embedded:minilm",)
Progress = Callable[[str, int, int], None]
"""Hears what is done, how far, and how far it goes."""


@dataclass(frozen=True)
class Sources:
    """What can be retrieved."""

    passages: list[Passage]
    blocks: list[int]
    """Number of passages of each source, in order."""
    languages: list[Language]
    """Of each source; that of the first is that of the prompt."""


def read_sources(paths: Sequence[Path], mapping: Path | None = None) -> Sources:
    """The chunks of documents, the records of CSV and JSON files, the paragraphs of SQuAD files.

    `mapping` is the field mapping of the record files, guessed when null. A file given twice counts once.
    Raises InputError when there is no passage, and what reading raises.
    """
    passages: list[Passage] = []
    blocks: list[int] = []
    languages: list[Language] = []
    for path in dict.fromkeys(paths):
        found, language = _read_source(path, mapping)
        passages += found
        blocks.append(len(found))
        languages.append(language)
    if not any(passage.text.strip() for passage in passages):
        raise InputError(
            "there is no passage to search", "give documents with text, or record files with rows"
        )
    return Sources(passages, blocks, languages)


def _read_source(path: Path, mapping: Path | None) -> tuple[list[Passage], Language]:
    if (squad := _squad(path)) is not None:
        return _paragraphs(path, squad), "en"
    if path.suffix.lower() in RECORD_SUFFIXES:
        records = read_records(path, max_bytes=load_settings().max_upload_bytes)
        used = load_mapping(mapping) if mapping else guess_mapping(records)
        return [
            Passage(
                id=f"{records.source_id}#{record.id}",
                text=record_passage(record, used),
                source_id=records.source_id,
                source_name=records.name,
                record_id=record.id,
                line=record.line,
            )
            for record in records.records
        ], used.language
    document = read_document(path, max_bytes=load_settings().max_upload_bytes)
    return [
        Passage(
            id=chunk.id,
            text=chunk.text,
            source_id=chunk.source_id,
            source_name=chunk.source_name,
            chunk_id=chunk.id,
            page=chunk.page,
            start=chunk.start,
            end=chunk.end,
            headings=chunk.headings,
        )
        for chunk in chunk_document(document)
    ], "fr" if document.language == "fr" else "en"


def _squad(path: Path) -> Squad | None:
    """A SQuAD file of a size that is read at all; None for everything else, which other readers judge."""
    small = path.is_file() and path.stat().st_size <= load_settings().max_upload_bytes
    return read_squad(path) if small else None


def _paragraphs(path: Path, squad: Squad) -> list[Passage]:
    return [
        Passage(
            id=f"{path.name}#{number}",
            text=paragraph.text,
            source_id=path.name,
            source_name=path.name,
            chunk_id=str(number),
            headings=[paragraph.title] if paragraph.title else [],
        )
        for number, paragraph in enumerate(squad.paragraphs, start=1)
    ]


@dataclass(frozen=True)
class Retriever:
    """Sources with their index, ready to be asked; lives as long as the `with` block that opened it."""

    sources: Sources
    index: Index
    notes: list[str]
    """What a user should know, one sentence each."""

    def search(self, questions: Sequence[str], k: int) -> list[list[Found]]:
        """The best passages of each question, best first: at most `k`, none for an empty question."""
        return [
            [
                Found(rank=rank, score=hit.score, passage=self.sources.passages[hit.position])
                for rank, hit in enumerate(hits, start=1)
            ]
            for hits in self.index.find(questions, k)
        ]


@contextmanager
def open_retriever(
    paths: Sequence[Path],
    config: RetrievalConfig | None = None,
    *,
    mapping: Path | None = None,
    api_key: str | None = None,
    on_progress: Progress | None = None,
) -> Iterator[Retriever]:
    """An index over sources; an encoder, where one is needed, ends with the `with` block.

    Raises what `read_sources` raises, DependencyError without the encoder's packages, ModelError,
    EndpointError.
    """
    config = config or RetrievalConfig()
    sources = read_sources(paths, mapping)
    with ExitStack() as stack:
        encoder = (
            None if config.kind == "bm25" else stack.enter_context(_encoder(config, api_key, on_progress))
        )
        notes = _notes(sources, config) if encoder else []
        yield Retriever(sources, _index(sources, config.kind, config, encoder, notes, on_progress), notes)


@contextmanager
def _encoder(
    config: RetrievalConfig, api_key: str | None, on_progress: Progress | None
) -> Iterator[Encoder | EmbeddingClient]:
    if config.url is not None:
        with EmbeddingClient(config.url, config.encoder, api_key=api_key) as client:
            yield client
        return
    if on_progress is not None:
        on_progress("loading the encoder", 0, 1)
    with open_encoder(config.encoder) as encoder:
        if on_progress is not None:
            on_progress("loading the encoder", 1, 1)
        yield encoder


def _index(
    sources: Sources,
    kind: Kind,
    config: RetrievalConfig,
    encoder: Encoder | EmbeddingClient | None,
    notes: list[str],
    on_progress: Progress | None,
) -> Index:
    """The index, from the cache or made; where the cache cannot be written, made all the same."""
    texts = [passage.text for passage in sources.passages]
    if on_progress is not None and kind != "embeddings" and len(texts) > MANY_PASSAGES:
        on_progress(f"indexing {len(texts):,} passages", 0, 1)
    query, passage = _prefixes(config, encoder)

    def embedded(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress("embedding passages", done, total)

    def build(folder: Path | None) -> Index:
        return build_index(
            texts,
            kind=kind,
            encoder=encoder,
            query_prefix=query,
            passage_prefix=passage,
            blocks=sources.blocks,
            cache=folder,
            on_progress=embedded,
        )

    try:
        return build(load_settings().home / INDEXES)
    except StorageError as error:
        note = f"the index is not kept: {error.message}"
        if note not in notes:
            notes.append(note)
        return build(None)


def _prefixes(config: RetrievalConfig, encoder: Encoder | EmbeddingClient | None) -> tuple[str, str]:
    """What stands before a question and a passage: as asked, as the model's files say, or by its name."""
    known: dict[str, str] = {}
    if encoder is not None and encoder.query_prefix is None and encoder.passage_prefix is None:
        known = next((row for row in _table() if re.search(row["name"], config.encoder, re.IGNORECASE)), {})
    elif encoder is not None:
        known = {"query": encoder.query_prefix or "", "passage": encoder.passage_prefix or ""}
    query = config.query_prefix if config.query_prefix is not None else known.get("query", "")
    passage = config.passage_prefix if config.passage_prefix is not None else known.get("passage", "")
    return query, passage


@cache
def _table() -> list[dict[str, str]]:
    file = resources.files("finetuneflow.assets") / "encoders.yaml"
    rows: list[dict[str, str]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return rows


def _notes(sources: Sources, config: RetrievalConfig) -> list[str]:
    if config.url is None and config.encoder in ENGLISH_ENCODERS and "fr" in sources.languages:
        return [
            f"`{config.encoder}` was trained on English: on French text `bm25` alone finds more; "
            "give a multilingual encoder with --encoder or --url"
        ]
    return []


def search(
    paths: Sequence[Path],
    question: str,
    config: RetrievalConfig | None = None,
    *,
    k: int = 5,
    mapping: Path | None = None,
    api_key: str | None = None,
    on_progress: Progress | None = None,
) -> tuple[list[Found], list[str]]:
    """The best passages for a question, best first, and notes. Raises UsageError on an empty question."""
    if not question.strip():
        raise UsageError("the question is empty", "give a question, or words to look for")
    with open_retriever(paths, config, mapping=mapping, api_key=api_key, on_progress=on_progress) as opened:
        return opened.search([question], k)[0], opened.notes


def measure(
    paths: Sequence[Path],
    questions: Path,
    config: RetrievalConfig | None = None,
    *,
    kinds: Sequence[Kind] = KINDS,
    mapping: Path | None = None,
    api_key: str | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> RetrievalReport:
    """How well each kind finds the sources of questions whose source is known.

    `questions` is a dataset with provenance, or a SQuAD file; `config.kind` is not read.
    Raises InputError when no question can be measured, and what `open_retriever` raises.
    """
    started = time.monotonic()
    config = config or RetrievalConfig()
    sources = read_sources(paths, mapping)
    asked, left_out = _questions(questions, sources.passages)
    notes: list[str] = []
    measured: list[KindFigures] = []
    recalled: list[figures.Values] = []
    with ExitStack() as stack:
        encoder = None
        if any(kind != "bm25" for kind in kinds):
            encoder = stack.enter_context(_encoder(config, api_key, on_progress))
            notes += _notes(sources, config)
        for kind in kinds:
            began = time.monotonic()
            index = _index(sources, kind, config, encoder, notes, on_progress)
            made = time.monotonic() - began
            found = _search_all(index, asked, kind, on_progress)
            searched = time.monotonic() - began - made
            recalled.append(figures.recall_values(asked, found, COMPARED_AT))
            measured.append(
                KindFigures(
                    kind=kind,
                    recall={
                        k: figures.interval(figures.recall_values(asked, found, k), asked, seed=seed)
                        for k in figures.CUTS
                    },
                    mrr=figures.interval(figures.reciprocal_ranks(asked, found), asked, seed=seed),
                    index_seconds=made,
                    milliseconds_per_question=1000 * searched / len(asked),
                    misses=_misses(asked, found, sources.passages),
                )
            )
    return RetrievalReport(
        passages=len(sources.passages),
        questions=len(asked),
        sources=len({question.relevant[0] for question in asked}),
        left_out=dict(left_out),
        encoder=None if encoder is None else f"{config.encoder} ({encoder.identity})",
        kinds=measured,
        differences=[
            RetrievalDifference(
                kind=kind,
                baseline=kinds[0],
                k=COMPARED_AT,
                difference=figures.difference(values, recalled[0], asked, seed=seed),
            )
            for kind, values in zip(kinds[1:], recalled[1:], strict=True)
        ],
        notes=notes,
        seconds=time.monotonic() - started,
    )


def _search_all(
    index: Index, asked: Sequence[SourcedQuestion], kind: Kind, on_progress: Progress | None
) -> list[list[int]]:
    found: list[list[int]] = []
    for start in range(0, len(asked), BATCH):
        batch = [question.text for question in asked[start : start + BATCH]]
        found += index.search(batch, figures.DEPTH)
        if on_progress is not None:
            on_progress(f"searching by {kind}", len(found), len(asked))
    return found


def _questions(path: Path, passages: Sequence[Passage]) -> tuple[list[SourcedQuestion], Counter[str]]:
    squad = _squad(path)
    if squad is not None:
        kept, left_out = from_spans(squad.questions, passages)
    else:
        kept, left_out = from_examples(datasets.read(path), passages)
    if not kept:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise InputError(
            f"none of the questions has a known source among the passages ({reasons or 'no questions'})",
            "give the sources that they were made from, unchanged; `dataset from-records` and "
            "`dataset from-documents` write where each question comes from beside the dataset",
            path=path,
        )
    return kept, left_out


def _misses(
    asked: Sequence[SourcedQuestion], found: Sequence[Sequence[int]], passages: Sequence[Passage]
) -> list[Miss]:
    return [
        Miss(
            question=question.text,
            expected=passages[question.relevant[0]].source,
            found=passages[positions[0]].source if positions else None,
        )
        for question, positions in zip(asked, found, strict=True)
        if not set(question.relevant) & set(positions[: figures.CUTS[-1]])
    ][:MOST_MISSES]
