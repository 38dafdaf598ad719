"""What the serving program is asked to do, and where it may listen. Nothing heavy is imported here."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field

from finetuneflow.errors import UsageError
from finetuneflow.schemas.base import Schema
from finetuneflow.schemas.recipe import Task

API_KEY_VARIABLE = "FTF_SERVE_API_KEY"
"""Environment variable with the key that clients must send: never on a command line, where others read it."""
Engine = Literal["llama.cpp", "transformers"]


class ServeRequest(Schema):
    """A model and an address: one line of JSON on the program's stdin."""

    engine: Engine
    task: Task = "causal_lm"
    name: str
    """What clients call the model."""
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    """0: any free one."""
    gguf: str | None = None
    """The GGUF file, for llama.cpp."""
    sha256: str | None = None
    """Of the GGUF file that was checked; null: nobody has checked it."""
    base_model: str = ""
    model: str | None = None
    """Folder of a whole trained model."""
    adapter: str | None = None
    """Folder of an adapter on the base."""
    labels: list[str] = Field(default_factory=list)
    precision: Literal["bf16", "fp32"] = "fp32"
    """What the run computed in; bf16 only where this machine is fast at it."""


class Ready(Schema):
    """The program's one line on stdout, once it listens."""

    address: str
    runtime: str


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to (or called by) that name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_exposure(host: str, api_key: str | None) -> None:
    """Refuses to show a model to the network without a key.

    Raises:
        UsageError: `host` is not this machine's loopback and there is no key, or the key cannot be sent.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise UsageError("the API key has characters that no HTTP header carries", "use letters and digits")
    if not api_key and not is_loopback(host):
        raise UsageError(
            f"`{host}` can be reached from other machines, and there is no API key",
            f"set {API_KEY_VARIABLE} to a long secret, or keep to 127.0.0.1",
            code="api_key_missing",
        )
