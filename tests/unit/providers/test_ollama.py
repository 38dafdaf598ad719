"""Addresses, places and versions of Ollama servers, before anything is asked of one."""

from __future__ import annotations

import socket

import pytest

from finetuneflow.errors import UsageError
from finetuneflow.providers.ollama import OllamaClient
from finetuneflow.providers.ollama_server import (
    OllamaError,
    check_place,
    check_version,
    is_loopback,
    parse_version,
    server_url,
    warnings_of,
)

LOCAL = "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://127.0.0.1:11434", LOCAL),
        ("http://localhost:11434/", "http://localhost:11434"),
        ("127.0.0.1", LOCAL),
        ("localhost:1234", "http://localhost:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", LOCAL),  # noqa: S104 - what OLLAMA_HOST often says
        ("http://0.0.0.0:11434", LOCAL),
        ("[::1]:80", "http://[::1]:80"),
        ("https://models.example", "https://models.example"),
        ("https://models.example/ollama/", "https://models.example/ollama"),
    ],
)
def test_addresses_as_people_write_them(address: str, url: str) -> None:
    assert server_url(address) == url


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "http://a b", "http://x:port", "http://x?y=1", "[::"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not the address of an Ollama server") as caught:
        server_url(address)
    assert caught.value.code == "ollama_url"


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    for address in ("http://me:s3cret@127.0.0.1:11434", "ftp://me:s3cret@host"):
        with pytest.raises(UsageError) as caught:
            server_url(address)
        assert "s3cret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("url", [LOCAL, "http://127.8.9.1", "http://[::1]:11434", "http://localhost"])
def test_servers_on_this_machine(url: str) -> None:
    assert is_loopback(url)
    check_place(url, allow_remote=False)


@pytest.mark.parametrize(
    "url",
    ["http://192.168.1.5:11434", "https://models.example", "http://127.0.0.1.example", "http://10.0.0.1"],
)
def test_servers_elsewhere_need_permission(url: str) -> None:
    with pytest.raises(UsageError, match="not on this machine") as caught:
        check_place(url, allow_remote=False)
    assert "--allow-remote" in caught.value.hint
    check_place(url, allow_remote=True)
    (warning,) = warnings_of("0.34.1", url, template=None)
    assert "no authentication" in warning
    assert ("nothing is encrypted" in warning) == url.startswith("http:")


def test_link_local_addresses_are_never_called() -> None:
    with pytest.raises(UsageError, match="link-local"):
        check_place("http://169.254.169.254", allow_remote=True)


def test_versions() -> None:
    assert parse_version("0.34.1") == (0, 34, 1)
    assert parse_version("v0.35.0-rc2") == (0, 35, 0)
    assert parse_version("0.0.0") is None
    assert parse_version("main") is None


@pytest.mark.parametrize(
    ("version", "parts"),
    [
        ("0.34.1", []),
        ("0.30.0", []),
        ("0.29.9", ["guesses the chat template"]),
        ("0.17.1", ["guesses the chat template"]),
        ("0.17.0", ["CVE-2026-7482", "guesses the chat template"]),
        ("0.0.0", ["not known"]),
    ],
)
def test_warnings_by_version(version: str, parts: list[str]) -> None:
    found = warnings_of(version, LOCAL, template=None)
    assert len(found) == len(parts)
    assert all(part in warning for part, warning in zip(parts, found, strict=True))


def test_a_template_of_ones_own_needs_no_warning() -> None:
    assert warnings_of("0.20.0", LOCAL, template="{{ .Prompt }}") == []


def test_what_a_version_cannot_do_is_refused() -> None:
    check_version("0.33.0", adapters=True, parameters={"typical_p": 0.5})
    check_version("0.0.0", adapters=True, parameters={})
    check_version("0.34.1", adapters=False, parameters={"temperature": 0.7})
    with pytest.raises(OllamaError, match="refuses adapters") as caught:
        check_version("0.34.1", adapters=True, parameters={})
    assert caught.value.code == "ollama_no_adapters"
    with pytest.raises(OllamaError, match="typical_p"):
        check_version("0.35.2", adapters=False, parameters={"typical_p": 0.5})
    with pytest.raises(OllamaError, match="too old") as caught:
        check_version("0.5.4", adapters=False, parameters={})
    assert caught.value.code == "ollama_too_old"


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with OllamaClient(f"http://127.0.0.1:{port}") as client, pytest.raises(OllamaError) as caught:
        client.version()
    assert caught.value.code == "ollama_unreachable"
    assert "ollama serve" in caught.value.hint


def test_a_silent_server_is_not_waited_for_without_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            OllamaClient(url, answer_seconds=0.2) as client,
            pytest.raises(OllamaError, match="took too long"),
        ):
            client.version()
