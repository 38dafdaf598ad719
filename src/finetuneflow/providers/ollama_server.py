"""What is known of an Ollama server before anything is sent to it: its address, its place, its version."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from finetuneflow.errors import FineTuneFlowError, UsageError

Version = tuple[int, int, int]

OLDEST: Version = (0, 5, 5)
"""The first version whose `create` takes uploaded files by name."""
SAFE: Version = (0, 17, 1)
"""CVE-2026-7482 (memory of the server leaks through `create`) is closed from here on."""
READS_TEMPLATE: Version = (0, 30, 0)
"""From here on the chat template in the file is used; before, the server guesses one that looks like it."""
NO_ADAPTERS: Version = (0, 34, 1)
"""From here on `create` refuses adapters, and `typical_p` as a parameter."""
DEFAULT_PORT = 11434


class OllamaError(FineTuneFlowError):
    """An Ollama server that cannot be reached, refuses, or fails half-way."""

    code = "ollama_failed"


def server_url(address: str) -> str:
    """The URL of a server from an address as people write it, also in the manner of `OLLAMA_HOST`.

    Raises UsageError for what is no address, and for one with a password in it.
    """
    whole = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(whole.rstrip("/"))
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", host) or parts.query:
        raise UsageError(
            f"`{address.rpartition('@')[2]}` is not the address of an Ollama server",
            "give one such as http://127.0.0.1:11434",
            code="ollama_url",
        )
    if "@" in parts.netloc:
        raise UsageError(
            "the address of the Ollama server holds a user name or a password",
            "give it without: it would stay in the files of the job",
            code="ollama_url",
        )
    # What a server listens on is not what a client can call.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    name = f"[{host}]" if ":" in host else host
    if port is None and "://" not in address:
        port = DEFAULT_PORT
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path}"


def is_loopback(url: str) -> bool:
    """True when the server is on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_place(url: str, *, allow_remote: bool) -> None:
    """Refuses a server that is not on this machine, unless that was asked for. Raises UsageError."""
    if is_loopback(url):
        return
    host = urlsplit(url).hostname or ""
    try:
        link_local = ipaddress.ip_address(host).is_link_local
    except ValueError:
        link_local = False
    if link_local:
        raise UsageError(f"`{host}` is a link-local address, no model server", code="ollama_remote")
    if not allow_remote:
        raise UsageError(
            f"the Ollama server `{host}` is not on this machine: the model would leave it",
            "Ollama asks nobody for a password; if that server is yours, repeat with --allow-remote",
            code="ollama_remote",
        )


def parse_version(text: str) -> Version | None:
    """A version as numbers; None for one that says nothing (`0.0.0` of a build of one's own)."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)
    return version if any(version) else None


def check_version(text: str, *, adapters: bool, parameters: Mapping[str, Any]) -> None:
    """Refuses what that version cannot do, before anything is uploaded. Raises OllamaError."""
    version = parse_version(text)
    if version is None:
        return
    if version < OLDEST:
        raise OllamaError(
            f"the Ollama server is version {text}, too old to be given a model",
            f"update it to {_dotted(SAFE)} or later",
            code="ollama_too_old",
        )
    if adapters and version >= NO_ADAPTERS:
        raise OllamaError(
            f"Ollama {text} refuses adapters, as every version from {_dotted(NO_ADAPTERS)} on",
            "deploy the merged model: leave out --adapter",
            code="ollama_no_adapters",
        )
    if "typical_p" in parameters and version >= NO_ADAPTERS:
        raise OllamaError(
            f"Ollama {text} refuses `typical_p` as a parameter of a model",
            "leave it out; `min_p` or `top_p` does something like it",
            code="ollama_parameter",
        )


def warnings_of(text: str, url: str, *, template: str | None) -> list[str]:
    """What the user should know about this server."""
    version = parse_version(text)
    found = []
    if version is None:
        found.append(f"the Ollama server gives its version as `{text}`: what it can do is not known")
    elif version < SAFE:
        found.append(
            f"Ollama {text} is not safe: anyone who reaches it can read its memory (CVE-2026-7482); "
            f"update it to {_dotted(SAFE)} or later"
        )
    if version is not None and version < READS_TEMPLATE and template is None:
        found.append(
            f"Ollama {text} guesses the chat template instead of using the one in the file; "
            f"update it to {_dotted(READS_TEMPLATE)} or later, or give --template"
        )
    if not is_loopback(url):
        secure = "" if url.startswith("https:") else ", and nothing is encrypted on the way"
        found.append(
            f"the server {url} is not on this machine: Ollama has no authentication, so whoever reaches it "
            f"may use, copy and delete the model{secure}"
        )
    return found


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
