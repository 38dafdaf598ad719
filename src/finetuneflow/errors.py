"""Everything that can go wrong, as one tree.

FineTuneFlowError            code, message, hint
├── UsageError               the caller asked for something impossible (exit 2)
│   ├── NotFoundError        no such file, project, dataset, run, model
│   └── RecipeError          a recipe key or value is not accepted
├── InputError               a file cannot be read as what it should be; names file and line
│   └── DatasetError         the rows were read, but no training can come of them
├── DependencyError          an optional package is missing; the hint is the install command
├── ModelError               a model folder or id cannot be loaded
│   └── ParityError          the exported or deployed model does not answer like the trained one
├── TrainingError            training stopped and cannot go on
├── StorageError             disk full or not writable; nothing half-written is left
└── JobCancelled             somebody asked the job to stop (not a failure)

Doors translate once: the CLI prints `error:` and `hint:`, the API answers problem+json.
"""

from __future__ import annotations

from pathlib import Path


class FineTuneFlowError(Exception):
    """A failure that a user can act on: what happened, and the way out."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or type(self).code

    def __str__(self) -> str:
        return self.message


class UsageError(FineTuneFlowError):
    """The request itself cannot be carried out."""

    code = "usage"
    exit_code = 2


class NotFoundError(UsageError):
    """Nothing of that name exists."""

    code = "not_found"


class RecipeError(UsageError):
    """A recipe has an unknown key or an unacceptable value."""

    code = "recipe_invalid"


class InputError(FineTuneFlowError):
    """A file that cannot be used, with the place and the remedy."""

    code = "input_invalid"

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        path: Path | str | None = None,
        line: int | None = None,
        code: str | None = None,
    ) -> None:
        place = "" if path is None else f"{path}:{line}: " if line else f"{path}: "
        super().__init__(place + message, hint, code=code)
        self.path = None if path is None else Path(path)
        self.line = line


class DatasetError(InputError):
    """Rows were read, but no training can come of them."""

    code = "dataset_invalid"


class DependencyError(FineTuneFlowError):
    """An optional package is missing."""

    code = "dependency_missing"

    def __init__(self, package: str, extra: str, reason: str) -> None:
        super().__init__(
            f"`{package}` is needed {reason}, and is not installed",
            f'pip install "finetuneflow[{extra}]"',
        )


class ModelError(FineTuneFlowError):
    """A model that cannot be found or loaded."""

    code = "model_unavailable"


class ParityError(ModelError):
    """The exported or deployed model does not answer like the trained one."""

    code = "parity_failed"


class TrainingError(FineTuneFlowError):
    """Training stopped and cannot go on."""

    code = "training_failed"


class StorageError(FineTuneFlowError):
    """The disk is full or not writable."""

    code = "storage_failed"


class JobCancelled(FineTuneFlowError):
    """The job was asked to stop."""

    code = "cancelled"
    exit_code = 130
