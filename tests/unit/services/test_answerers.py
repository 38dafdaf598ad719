"""`--export` and `--against`: what a name means, and which names are refused."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from finetuneflow.errors import NotFoundError, UsageError
from finetuneflow.services.answerers import named
from finetuneflow.services.context import Context

NO_CONTEXT = cast(Context, None)
URL = "http://127.0.0.1:8000/v1"


def test_servers_are_named_by_kind_and_may_be_given_the_passages() -> None:
    arms = named(
        NO_CONTEXT, "run-1", against=["ollama:llama3.2:1b", "ollama:llama3.2:1b+rag", f"endpoint:{URL}#m+x"]
    )
    assert list(arms) == ["ollama:llama3.2:1b", "ollama:llama3.2:1b+rag", f"endpoint:{URL}#m+x"]
    plain, searching, endpoint = arms.values()
    assert (plain.kind, plain.model, plain.parallel, plain.retrieval) == ("ollama", "llama3.2:1b", 1, False)
    assert searching == plain.model_copy(update={"retrieval": True})
    assert (endpoint.kind, endpoint.url, endpoint.model) == ("endpoint", URL, "m+x")
    assert endpoint.parallel > 1


def test_a_gguf_file_stands_in_for_the_tuned_model_with_and_without_passages(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.touch()
    arms = named(NO_CONTEXT, "run-1", export=str(path), parallel=2)
    assert list(arms) == ["tuned", "tuned_rag"]
    assert {(spec.kind, spec.model, spec.parallel) for spec in arms.values()} == {("gguf", str(path), 2)}
    assert [spec.retrieval for spec in arms.values()] == [False, True]


@pytest.mark.parametrize(
    "name",
    [
        f"endpoint:{URL}",
        "endpoint:#m",
        "endpoint:ftp://127.0.0.1#m",
        "endpoint:http://me:secret@127.0.0.1/v1#m",
        "endpoint:http://127.0.0.1/v1?key=secret#m",
        "endpoint:http://169.254.169.254/latest#m",
        "endpoint:http://metadata.google.internal/v1#m",
    ],
)
def test_addresses_that_are_no_model_server_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        named(NO_CONTEXT, "run-1", against=[name])
    assert caught.value.hint
    assert "secret" not in caught.value.message


def test_an_ollama_server_elsewhere_is_refused() -> None:
    with pytest.raises(UsageError, match="not on this machine"):
        named(NO_CONTEXT, "run-1", against=["ollama:m"], ollama_url="http://models.example")


def test_one_key_is_not_sent_to_two_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTF_ENDPOINT_API_KEY", "mine")
    two = [f"endpoint:{URL}#a", "endpoint:http://127.0.0.1:9000/v1#a"]
    with pytest.raises(UsageError, match="2 servers"):
        named(NO_CONTEXT, "run-1", against=two)
    assert len(named(NO_CONTEXT, "run-1", against=[f"endpoint:{URL}#a", f"endpoint:{URL}#b"])) == 2
    monkeypatch.delenv("FTF_ENDPOINT_API_KEY")
    assert len(named(NO_CONTEXT, "run-1", against=two)) == 2


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.gguf"):
        named(NO_CONTEXT, "run-1", export=str(tmp_path / "none.gguf"))
