"""Metrics that need no model: text, JSON, calibration."""

from finetuneflow.metrics.json_answers import json_validity
from finetuneflow.metrics.text import (
    TOKEN,
    WORD,
    exact_match,
    fold,
    longest_common_subsequence,
    normalize,
    rouge_l,
    token_f1,
)

__all__ = [
    "TOKEN",
    "WORD",
    "exact_match",
    "fold",
    "json_validity",
    "longest_common_subsequence",
    "normalize",
    "rouge_l",
    "token_f1",
]
