"""Deployments: an exported model where applications reach it, and which model serves which role."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from finetuneflow.schemas.base import Schema

DEFAULT_OLLAMA_URL = "http://127.0.0.1:11434"


class OllamaConfig(Schema):
    """How to register a model in Ollama."""

    task: Literal["ollama"] = "ollama"
    name: str
    """Name of the model there, such as `applications-ia` or `applications-ia:v2`."""
    url: str = DEFAULT_OLLAMA_URL
    system: str | None = None
    """System prompt; null: the one that every training example had, if there was one."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Ollama parameters, such as `temperature`, `top_p`, `num_ctx`, `stop`."""
    template: str | None = None
    """A Go template that overrides the chat template in the file; null: the file's own."""
    use_adapter: bool = False
    """Send base and adapter apart, to servers that accept adapters (up to 0.33)."""
    allow_remote: bool = False
    """Send the model to a server that is not on this machine."""
    prompts: int = Field(20, ge=1)
    """Parity prompts asked again through `/api/chat`."""
    max_new_tokens: int = Field(96, gt=0)


class OllamaInputs(Schema):
    """What the deployment reads."""

    run_id: str
    export_id: str
    gguf: str
    """The GGUF file, absolute."""
    sha256: str
    parity: str
    """The `parity.json` beside it, absolute: prompts and the trained model's answers."""
    gguf_adapter: str | None = None
    base_gguf: str | None = None
    """The base alone as GGUF, when base and adapter are sent apart."""
    license: str | None = None
    """Text of the licence, when the base has one."""


class OllamaDeployment(Schema):
    """A model that an Ollama server answers for."""

    name: str
    url: str
    server_version: str
    digest: str
    """Of the GGUF blob, `sha256:…`."""
    created: bool
    """False when a model of that name was replaced."""
    uploaded_bytes: int
    """0 when the server had the blob already."""
    prompts: int
    answers_equal: int
    """Prompts that Ollama answers exactly like the trained model."""
    passed: bool
    first_difference: str | None = None
    warnings: list[str] = Field(default_factory=list)
    modelfile: str
    """The equivalent Modelfile, as text."""
    seconds: float


class RegisteredModel(Schema):
    """What serves a role now."""

    role: str
    model_name: str
    run_id: str | None = None
    export_id: str | None = None
    verdict: str | None = None
    """PASS, FAIL, NOT ENOUGH DATA; null when the run was never evaluated."""
    version: int
    """Counts the promotions of the role, from 1."""
    promoted_at: str
    promoted_by: str
    reason: str = ""
    """Why it was promoted without a PASS verdict, or rolled back."""


class RegistryEvent(Schema):
    """One line of the registry's history."""

    action: Literal["promote", "rollback"]
    at: str
    by: str
    role: str
    version: int
    previous: str | None = None
    """Model name before."""
    model_name: str
    run_id: str | None = None
    export_id: str | None = None
    verdict: str | None = None
    forced: bool = False
    reason: str = ""
