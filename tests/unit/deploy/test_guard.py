"""What passes the door of a served model, and what is refused; in memory, no port is opened."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from finetuneflow.deploy.guard import Guard, new_app, read_json
from finetuneflow.deploy.serve_request import check_exposure
from finetuneflow.errors import UsageError

JSON = {"Content-Type": "application/json"}


def echo_app() -> Starlette:
    async def echo(request: Request) -> JSONResponse:
        return JSONResponse(await read_json(request, max_bytes=100))

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def broken(_: Request) -> JSONResponse:
        raise ZeroDivisionError("a secret")

    return new_app(
        [Route("/echo", echo, methods=["POST"]), Route("/health", health), Route("/broken", broken)]
    )


def ask(
    method: str,
    path: str,
    *,
    host: str = "127.0.0.1",
    key: str | None = None,
    to: str = "http://127.0.0.1:8080",
    **request: Any,
) -> httpx.Response:
    async def send() -> httpx.Response:
        guarded: Any = Guard(echo_app(), host=host, api_key=key)
        transport = httpx.ASGITransport(guarded, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=to) as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


def error(response: httpx.Response) -> dict[str, Any]:
    assert set(response.json()) == {"error"}
    told = response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert told["message"]
    return dict(told)


@pytest.mark.parametrize("to", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"])
def test_the_names_of_this_machine_are_answered(to: str) -> None:
    assert ask("POST", "/echo", to=to, json={"é": 1}).json() == {"é": 1}


@pytest.mark.parametrize("path", ["/health", "/echo"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "192.168.1.2", ""]
)
def test_another_name_for_this_machine_is_refused(host: str, path: str) -> None:
    response = ask("POST" if path == "/echo" else "GET", path, headers={"Host": host} | JSON, content="{}")
    assert response.status_code == 403
    error(response)


def test_a_server_on_the_network_answers_to_any_name_that_comes_with_the_key() -> None:
    def said(**headers: str) -> int:
        to = "http://models.example:8080"
        everywhere = "0.0.0.0"  # noqa: S104 - nothing is bound
        return ask(
            "POST", "/echo", host=everywhere, key="s3cret", to=to, json={}, headers=headers
        ).status_code

    assert said(Authorization="Bearer s3cret") == 200
    assert said() == 401


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999"])
def test_pages_of_other_origins_are_refused_and_no_header_invites_them(origin: str) -> None:
    response = ask("POST", "/echo", json={}, headers={"Origin": origin})
    assert response.status_code == 403
    preflight = ask("OPTIONS", "/echo", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 403
    own = ask("POST", "/echo", json={}, headers={"Origin": "http://127.0.0.1:8080"})
    assert own.status_code == 200
    for answered in (response, preflight, own):
        assert not [name for name in answered.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://["}, {"Host": "["}, {"Host": "[x]:80"}, {"Origin": "http://[::1"}]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - nothing is bound
def test_a_header_that_is_no_address_is_refused_and_only_who_has_the_key_is_told(
    host: str, headers: dict[str, str]
) -> None:
    refused = ask("GET", "/health", host=host, key="s3cret", headers=headers)
    assert refused.status_code == 400
    error(refused)
    assert ask("GET", "/echo", host=host, key="s3cret", headers=headers).status_code == 401
    assert ask("GET", "/nowhere", host=host, headers=headers).status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_what_a_page_may_send_without_asking_is_refused(kind: str | None) -> None:
    response = ask("POST", "/echo", content="{}", headers={"Content-Type": kind} if kind else {})
    assert response.status_code == 415
    error(response)


@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer é"]
)
def test_a_wrong_key_is_refused(given: str | None) -> None:
    headers = {"Authorization": given.encode()} if given else {}
    response = ask("POST", "/echo", key="s3cret", json={}, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert error(response)["code"] == "invalid_api_key"


def test_the_right_key_passes_and_health_needs_none() -> None:
    headers = {"Authorization": "Bearer s3cret"}
    assert ask("POST", "/echo", key="s3cret", json={}, headers=headers).status_code == 200
    assert ask("GET", "/health", key="s3cret").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 400),
        (b'"text"', 400),
        (b'{"text": "\xff"}', 400),
        (b'{"text": "\\ud800"}', 400),
        (b'{"text": "\xed\xa0\x80"}', 400),
        ('{"text": "a"}'.encode("utf-16"), 400),
        ('{"text": "a"}'.encode("utf-32-le"), 400),
        (b"[" * 90, 400),
        (b'{"text": "' + b"a" * 100 + b'"}', 413),
    ],
)
def test_a_body_that_is_no_short_json_object_is_refused(body: bytes, status: int) -> None:
    response = ask("POST", "/echo", content=body, headers=JSON)
    assert response.status_code == status
    error(response)


def test_a_body_without_end_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 10_000:
            sent += 1
            yield b" " * 50

    assert ask("POST", "/echo", content=endless(), headers=JSON).status_code == 413


def test_unknown_paths_methods_and_failures_have_the_same_shape() -> None:
    assert error(ask("GET", "/nowhere"))["message"].startswith("GET /nowhere")
    assert ask("GET", "/echo").status_code == 405
    broken = ask("GET", "/broken")
    assert broken.status_code == 500
    assert error(broken)["type"] == "server_error"
    assert "secret" not in json.dumps(broken.json())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "models.example"])  # noqa: S104
def test_a_model_is_not_shown_to_the_network_without_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="no API key") as refused:
        check_exposure(host, None)
    assert "FTF_SERVE_API_KEY" in refused.value.hint
    check_exposure(host, "s3cret")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    check_exposure(host, None)


@pytest.mark.parametrize("key", ["é", "two words", "line\nbreak"])
def test_a_key_that_no_header_carries_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="characters"):
        check_exposure("127.0.0.1", key)
