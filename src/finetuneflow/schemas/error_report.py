"""The analysis of a classifier's errors, and the charter (labels, priorities, causes, actions) behind it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.dataset import Dropped
from finetuneflow.schemas.prediction import Notice

Language = Literal["en", "fr"]
Band = Literal["high", "medium", "low", "unknown"]
HIGH_CONFIDENCE = 0.8
LOW_CONFIDENCE = 0.5


class Words(Schema):
    """A text in one language or both; plain text is taken for both."""

    fr: str = ""
    en: str = ""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return {"fr": value, "en": value} if isinstance(value, str) else value

    def say(self, language: Language) -> str:
        """The text in a language, or in the other one where only that was written."""
        return (self.fr or self.en) if language == "fr" else (self.en or self.fr)


class CharterConfusion(Schema):
    """What is known of one confusion."""

    predicted: str
    gold: str
    cause: Words
    """Why it probably happens."""
    action: Words
    """What to do about it."""


class CharterPrompts(Schema):
    """System prompts of the training examples. `{priority}`, `{labels}`, `{definitions}`, `{comments}`."""

    system: Words
    """For rows without comments of experts, and for plain examples."""
    with_comments: Words
    justification: Words = Words()
    """Given for the right label where no expert commented."""


class Charter(Schema):
    """How texts are to be labelled: a YAML file, no code."""

    name: str
    title: Words
    language: Language = "en"
    """Of reports and examples unless asked otherwise."""
    priority: list[str] = Field(default_factory=list)
    """Labels, the one that wins first."""
    labels: dict[str, Words] = Field(default_factory=dict)
    """Label → definition."""
    confusions: list[CharterConfusion] = Field(default_factory=list)
    default_cause: Words
    """For confusions that the charter does not name."""
    default_action: Words
    prompts: CharterPrompts


class LabelScores(Schema):
    """Figures of one label; null where there is nothing to divide by."""

    label: str
    support: int
    """Rows that should have it."""
    predicted: int
    """Rows that got it."""
    correct: int
    precision: float | None
    """Null: never predicted."""
    recall: float | None
    """Null: no row should have it."""
    f1: float | None


class ErrorExample(Schema):
    """One wrong row."""

    line: int
    text: str
    predicted: str
    gold: str
    confidence: float | None = None
    prev1: str | None = None
    next1: str | None = None
    annotation: str | None = None


class Confusion(Schema):
    """Rows of one gold label that got one wrong label."""

    predicted: str
    gold: str
    count: int
    share_of_errors: float
    expected: float | None = None
    """Errors to expect if wrong labels were drawn without regard to the gold label."""
    p_value: float | None = None
    """One-sided exact binomial: so many or more by chance."""
    p_adjusted: float | None = None
    """After Holm, over all confusions that could occur."""
    significant: bool | None = None
    """`p_adjusted` below 0.05; null where the test says nothing (`confusions_note`)."""
    cause: str = ""
    action: str = ""
    examples: list[ErrorExample] = Field(default_factory=list)
    """Of the most frequent ones."""


class ConfidenceBand(Schema):
    """Rows by confidence."""

    band: Band
    rows: int
    errors: int
    share_of_errors: float
    error_rate: float | None
    """Null: no row."""


class ErrorCluster(Schema):
    """Errors whose texts are alike."""

    name: str
    """Their most telling words."""
    size: int
    predicted: str
    gold: str
    """The most frequent confusion in it."""
    share: float
    """Of that confusion in the cluster."""
    examples: list[ErrorExample] = Field(default_factory=list)
    lines: list[int] = Field(default_factory=list)
    """Of the errors in it."""


class LabelError(Schema):
    """A row whose gold label is probably the mistake."""

    line: int
    text: str
    gold: str
    suggested: str
    predicted: str
    gold_probability: float
    suggested_probability: float


class TrainingConflict(Schema):
    """An error whose text is also in the training data, under another label than its gold label."""

    line: int
    text: str
    gold: str
    predicted: str
    training_text: str
    training_label: str
    training_line: int | None = None
    similarity: float
    """1.0: the same text; else the cosine of both."""


class Targets(Schema):
    """What the next model is to reach."""

    baseline: float
    objective: float
    """Five points more, at most 1."""
    minimum: float = 0.85
    """To go into production."""


class TechnicalMetadata(Schema):
    """What is needed to make the report again."""

    extraction_date: str
    total_examples: int
    """Wrong rows."""
    unique_algorithms: int
    """Classifiers named in the wrong rows."""
    annotation_coverage: float
    """Share of the wrong rows that an expert commented on."""
    error_rate: float
    format: str = "OpenAI JSONL"
    version: str = "1.0.0"
    """Of the form of the report."""
    generator: str
    source: str
    source_sha256: str
    charter: str
    seed: int


class ErrorReport(Schema):
    """All figures of an error report; sentences in its language."""

    language: Language
    name: str
    rows: int
    kept: int
    dropped: dict[str, int] = Field(default_factory=dict)
    """reason → rows; rows == kept + their sum."""
    dropped_rows: list[Dropped] = Field(default_factory=list)
    """The first 50,000, with line and remedy."""
    notices: list[Notice] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    correct: int
    errors: int
    accuracy: float
    accuracy_low: float
    """95 % interval (Wilson)."""
    accuracy_high: float
    error_rate: float
    kappa: float | None
    """Cohen's."""
    kappa_note: str | None = None
    macro_precision: float | None
    """Mean over labels that should occur or do; one never predicted counts 0, as in scikit-learn."""
    macro_recall: float | None
    macro_f1: float | None
    weighted_f1: float | None
    mean_confidence: float | None
    mean_milliseconds: float | None
    algorithm: str | None
    labels: list[str]
    per_label: list[LabelScores]
    confusion: list[list[int]]
    """Rows: predicted, columns: gold, in the order of `labels`."""
    confusions: list[Confusion]
    """Most frequent first."""
    confusions_note: str | None = None
    by_confidence: list[ConfidenceBand]
    confidence_note: str | None = None
    high_confidence_alarm: bool
    """Over a tenth of the errors have a confidence of at least 0.8."""
    high_confidence_share: float | None
    expert_examples: list[ErrorExample]
    clusters: list[ErrorCluster] | None = None
    clusters_note: str | None = None
    """Why there are none, or on which part they were made; likewise below."""
    label_errors: list[LabelError] | None = None
    """The most doubtful first, at most 100."""
    label_errors_found: int = 0
    label_errors_note: str | None = None
    training_conflicts: list[TrainingConflict] | None = None
    training_conflicts_found: int = 0
    training_conflicts_note: str | None = None
    targets: Targets
    metadata: TechnicalMetadata
