"""`finetuneflow push` against a hub that speaks the protocol over HTTP."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.export.bundle_check import verify_bundle
from finetuneflow.services import hub as service

pytestmark = pytest.mark.integration

TOKEN = "hf_SecretSecretSecretSecretSecret"
REPOSITORY = "lea/analyser"
EVERYTHING = {
    *("README.md", "config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"),
    *("adapter/README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
    *("adapter/tokenizer.json", "adapter/chat_template.jinja"),
    *("gguf/README.md", "gguf/model.gguf", "gguf/Modelfile", "gguf/parity.json"),
    *("LICENSE", "recipe.yaml", "metrics.json", "loss_curve.png", "manifest.json"),
}


def push(cli: Any, reference: str = "run-1", *options: str, to: str = REPOSITORY) -> Any:
    return cli("push", reference, "--to", to, "--yes", *options)


def ways_to_write(row: str) -> list[bytes]:
    texts = [row, json.dumps(row)[1:-1], json.dumps(row, ensure_ascii=False)[1:-1]]
    return [text.encode() for text in texts]


def test_a_push_makes_a_private_repository_and_sends_every_file_in_one_commit(
    cli: Any, hub: Any, finished: Any
) -> None:
    folder = finished.export()
    said = push(cli, "run-1", "--json")
    assert said.code == 0, said.err
    repository = hub.repositories[REPOSITORY]
    assert repository.private is True
    assert set(repository.files) == EVERYTHING
    assert len(repository.commits) == 2
    assert repository.lfs == {path for path in EVERYTHING if path.endswith((".safetensors", ".gguf", ".png"))}
    for source in ("adapter/adapter_model.safetensors", "gguf/model.gguf", "gguf/Modelfile", "LICENSE"):
        assert repository.files[source] == (folder / source).read_bytes()
    assert repository.files["model.safetensors"] == (folder / "merged/model.safetensors").read_bytes()
    pushed = said.json()
    assert (pushed["url"], pushed["commit"]) == (f"{hub.url}/{REPOSITORY}", repository.commits[-1])
    assert (pushed["public"], pushed["created"]) == (False, True)
    assert {file["path"] for file in pushed["files"]} == EVERYTHING


def test_no_row_of_the_dataset_is_in_any_byte_that_reaches_the_hub(cli: Any, hub: Any, finished: Any) -> None:
    folder = finished.export()
    exported = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert all(any(way in exported for way in ways_to_write(row)) for row in finished.rows)
    assert push(cli).code == 0
    received = hub.received()
    assert b"adapter_config" in received
    assert b"The verdict is PASS." in received
    assert [row for row in finished.rows if any(way in received for way in ways_to_write(row))] == []
    assert not [path for path in hub.repositories[REPOSITORY].files if "report" in path or "zip" in path]


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("/data/lea_private/base-model", ("lea_private", "lea\\_private")),
        (
            "/data/Léa Dupont/Projets confidentiels/Client Secret SA/2026/models of the client/base-model",
            ("Léa", "L\\u00e9a", "L\\xe9a", "Dupont", "confidentiels", "Client", "of the client"),
        ),
        ('/data/l\'été: "secret"/base-model', ("été", "\\u00e9t", "secret")),
    ],
)
def test_a_path_of_this_machine_does_not_reach_the_hub(
    cli: Any, hub: Any, finished: Any, words: tuple[str, ...]
) -> None:
    finished.export()
    said = push(cli)
    assert said.code == 0, said.err
    received = hub.received()
    assert [word for word in words if word.encode() in received] == []
    assert str(finished.home).encode() not in received
    assert b"Tuned from base-model." in received
    assert b"base_model: base-model\n" in received


def fetch(hub: Any, folder: Path) -> Path:
    """What a person downloads."""
    for path, data in hub.repositories[REPOSITORY].files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (folder / ".gitattributes").write_text("*.gguf filter=lfs\n", encoding="utf-8")
    return folder


def test_what_is_fetched_from_the_hub_verifies(cli: Any, hub: Any, finished: Any, tmp_path: Path) -> None:
    finished.export()
    assert push(cli).code == 0
    bundle = verify_bundle(fetch(hub, tmp_path / "fetched"))
    assert (bundle.whole, bundle.bad) == (True, [])
    assert bundle.parity is not None
    assert bundle.parity.passed


def test_what_an_earlier_push_left_is_named_and_removed(
    cli: Any, hub: Any, finished: Any, tmp_path: Path
) -> None:
    finished.export(kinds=("merged",))
    assert push(cli).code == 0
    hub.repositories[REPOSITORY].files[".gitattributes"] = b"*.gguf filter=lfs\n"
    finished.export(kinds=("adapter", "gguf"))
    before = dict(hub.repositories[REPOSITORY].files)
    said = cli("push", "run-1", "--to", REPOSITORY)
    assert said.code == 2
    assert "REMOVED  model.safetensors" in said.err
    assert hub.repositories[REPOSITORY].files == before
    said = push(cli, "run-1", "--json")
    assert said.code == 0, said.err
    assert said.json()["removed"] == ["config.json", "model.safetensors"]
    assert ".gitattributes" in hub.repositories[REPOSITORY].files
    assert len(hub.repositories[REPOSITORY].commits) == 3
    bundle = verify_bundle(fetch(hub, tmp_path / "fetched"))
    assert (bundle.whole, bundle.bad) == (True, [])


def test_a_file_that_came_after_the_files_were_shown_is_not_removed(
    cli: Any, hub: Any, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished.export(kinds=("gguf",))
    assert push(cli).code == 0
    confirmed = service.push

    def late(plan: Any, **others: Any) -> Any:
        hub.repositories[REPOSITORY].files["notes.md"] = b"by a colleague"
        return confirmed(plan, **others)

    monkeypatch.setattr(service, "push", late)
    said = push(cli)
    assert said.code == 2
    assert "have just changed: nothing was sent" in said.err
    assert hub.repositories[REPOSITORY].files["notes.md"] == b"by a colleague"


@pytest.mark.parametrize(
    ("kinds", "root"),
    [
        (("adapter",), "adapter_config.json"),
        (("gguf",), "model.gguf"),
        (("adapter", "gguf"), "adapter_config.json"),
    ],
)
def test_the_first_of_merged_adapter_and_gguf_is_the_root(
    cli: Any, hub: Any, finished: Any, kinds: tuple[str, ...], root: str
) -> None:
    finished.export(kinds=kinds)
    assert push(cli).code == 0
    assert {root, "README.md"} <= set(hub.repositories[REPOSITORY].files)


def test_large_files_travel_in_parts_where_the_hub_wants_parts(cli: Any, hub: Any, finished: Any) -> None:
    folder = finished.export(kinds=("gguf",), large=5 << 20)
    hub.part_bytes = 1 << 20
    said = push(cli)
    assert said.code == 0, said.err
    assert hub.repositories[REPOSITORY].files["model.gguf"] == (folder / "gguf/model.gguf").read_bytes()
    assert len([path for path in hub.paths("PUT") if "/lfs/part/" in path]) == 6


def test_the_files_are_listed_with_their_sizes_and_nothing_is_sent_without_a_yes(
    cli: Any, hub: Any, finished: Any
) -> None:
    folder = finished.export()
    said = cli("push", "run-1", "--to", REPOSITORY)
    assert (said.code, said.out) == (2, "")
    assert "--yes" in said.err
    assert f"{(folder / 'gguf/model.gguf').stat().st_size:,}  gguf/model.gguf" in said.err
    assert "report.md: it shows examples of the dataset" in said.err
    assert "(private)" in said.err
    assert hub.repositories == {}
    assert [*hub.paths("POST"), *hub.paths("PUT")] == []


@pytest.mark.parametrize(("answer", "sent"), [("y\n", True), ("n\n", False), ("", False)])
def test_a_person_is_asked(hub: Any, finished: Any, answer: str, sent: bool) -> None:
    finished.export(kinds=("adapter",))
    program = (
        "import io, sys; from finetuneflow.cli import app\n"
        f"class Terminal(io.StringIO):\n    isatty = lambda self: True\n"
        f"sys.stdin = Terminal({answer!r})\n"
        f"sys.exit(app.run(['push', 'run-1', '--to', '{REPOSITORY}']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "Send these files?" in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == sent
    assert (REPOSITORY in hub.repositories) == sent


def test_the_token_is_in_no_output_and_in_no_command_line(
    cli: Any, hub: Any, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished.export(kinds=("adapter",))
    started: list[Any] = []
    popen = subprocess.Popen

    def noted(command: Any, **others: Any) -> Any:
        started.append(command)
        return popen(command, **others)

    monkeypatch.setattr(subprocess, "Popen", noted)
    said = push(cli)
    assert said.code == 0, said.err
    assert started
    assert TOKEN not in f"{started}{said.out}{said.err}{os.sys.argv}"  # type: ignore[attr-defined]
    assert TOKEN.encode() not in hub.received()
    kept = [
        path for path in finished.home.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
    assert kept == []


def test_a_wrong_token_is_told_without_showing_it(
    cli: Any, hub: Any, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished.export(kinds=("adapter",))
    monkeypatch.setenv("HF_TOKEN", "hf_WrongWrongWrongWrongWrong")
    said = push(cli)
    assert said.code == 1
    assert "does not accept the token" in said.err
    assert "Wrong" not in said.out + said.err
    assert hub.repositories == {}


def test_only_the_environment_gives_the_token(
    cli: Any, hub: Any, finished: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    finished.export(kinds=("adapter",))
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN, encoding="utf-8")
    said = push(cli)
    assert said.code == 2
    assert "HF_TOKEN" in said.err
    assert hub.requests == []


def test_a_repository_of_another_owner_is_refused_before_anything_is_made(
    cli: Any, hub: Any, finished: Any
) -> None:
    finished.export(kinds=("adapter",))
    said = push(cli, to="somebody/analyser")
    assert said.code == 2
    assert "belongs to `lea`" in said.err
    assert "`team`" in said.err
    assert hub.repositories == {}
    assert hub.paths("POST") == []
    assert push(cli, to="team/analyser").code == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_repository_that_turns_out_to_be_public_is_refused_before_the_upload(
    cli: Any, hub: Any, finished: Any, there: bool
) -> None:
    finished.export(kinds=("adapter",))
    hub.ignores_private = True
    if there:
        assert push(cli, "run-1", "--public").code == 0
        hub.requests.clear()
    said = push(cli)
    assert said.code == 2
    assert "is public" in said.err
    assert "nothing was sent" in said.err
    assert [path for path in hub.paths("POST") if "create" not in path] == []
    assert hub.paths("PUT") == []


def test_public_is_said_and_only_then_done(cli: Any, hub: Any, finished: Any) -> None:
    finished.export(kinds=("adapter",))
    said = push(cli, "run-1", "--public", "--json")
    assert "(PUBLIC)" in said.err
    assert said.json()["public"] is True
    assert hub.repositories[REPOSITORY].private is False


def test_public_is_refused_for_a_repository_that_is_private(cli: Any, hub: Any, finished: Any) -> None:
    finished.export(kinds=("adapter",))
    assert push(cli).code == 0
    said = push(cli, "run-1", "--public")
    assert said.code == 2
    assert "is private: nothing was sent" in said.err
    assert len(hub.repositories[REPOSITORY].commits) == 2


def test_an_upload_that_breaks_in_the_middle_goes_on(cli: Any, hub: Any, finished: Any) -> None:
    folder = finished.export(kinds=("gguf",))
    hub.dropped_uploads = 1
    said = push(cli)
    assert said.code == 0, said.err
    assert hub.repositories[REPOSITORY].files["model.gguf"] == (folder / "gguf/model.gguf").read_bytes()


@pytest.mark.parametrize("what", ["refused_uploads", "refused_commits"])
def test_an_upload_that_ends_in_the_middle_publishes_nothing_and_can_be_repeated(
    cli: Any, hub: Any, finished: Any, what: str
) -> None:
    finished.export(kinds=("gguf",))
    setattr(hub, what, 1)
    said = push(cli)
    assert said.code == 1
    assert "push again" in said.err
    assert "feedface" not in said.err  # the signature of an address
    assert "Traceback" not in said.err
    assert hub.repositories[REPOSITORY].files == {}
    sent = len(hub.paths("PUT"))
    assert push(cli).code == 0
    assert set(hub.repositories[REPOSITORY].files) >= {"model.gguf", "README.md"}
    assert len(hub.paths("PUT")) == sent + (what == "refused_uploads")


def test_a_hub_that_does_not_keep_a_file_is_found_out(cli: Any, hub: Any, finished: Any) -> None:
    finished.export(kinds=("gguf",))
    hub.loses = "model.gguf"
    said = push(cli)
    assert said.code == 1
    assert "other files than were sent: model.gguf" in said.err


def test_pushing_again_sends_no_large_file_twice(cli: Any, hub: Any, finished: Any) -> None:
    finished.export()
    assert push(cli).code == 0
    sent = len(hub.paths("PUT"))
    said = push(cli, "run-1", "--json")
    assert (said.code, said.json()["created"]) == (0, False)
    assert len(hub.paths("PUT")) == sent


def test_a_card_that_cites_a_row_is_refused(cli: Any, hub: Any, finished: Any) -> None:
    folder = finished.export(kinds=("adapter",))
    with (folder / "adapter" / "README.md").open("a", encoding="utf-8") as card:
        card.write(f"Ask it: {finished.rows[3]}\n")
    said = push(cli)
    assert said.code == 1
    assert "`README.md` holds a row of the dataset" in said.err
    assert hub.requests == []


def test_a_file_that_changed_since_the_export_is_refused(cli: Any, hub: Any, finished: Any) -> None:
    folder = finished.export(kinds=("gguf",))
    with (folder / "gguf" / "model.gguf").open("ab") as file:
        file.write(b"x")
    said = push(cli)
    assert said.code == 2
    assert "`model.gguf` has changed since it was exported" in said.err
    assert hub.repositories[REPOSITORY].files == {}


@pytest.mark.parametrize(
    ("address", "word"),
    [("http://hub.example.org", "unencrypted"), ("ftp://hub", "not the address"), ("hub", "not the address")],
)
def test_an_address_that_would_show_the_token_is_refused(
    cli: Any, hub: Any, finished: Any, monkeypatch: pytest.MonkeyPatch, address: str, word: str
) -> None:
    finished.export(kinds=("adapter",))
    monkeypatch.setenv("HF_ENDPOINT", address)
    said = push(cli)
    assert said.code == 2
    assert word in said.err


@pytest.mark.parametrize("name", ["analyser", "a/b/c", "lea/../x", "lea/a--b", "lea/", "-lea/x", "lea/x y"])
def test_a_name_that_is_no_repository_is_refused(cli: Any, hub: Any, finished: Any, name: str) -> None:
    said = push(cli, to=name)
    assert said.code == 2
    assert "owner/name" in said.err


def test_a_run_without_an_export_is_told(cli: Any, hub: Any, finished: Any) -> None:
    said = push(cli)
    assert said.code == 2
    assert "`finetuneflow export run-1`" in said.err
    assert push(cli, "run-none").code == 2


def test_an_export_whose_folder_was_deleted_is_passed_over(cli: Any, hub: Any, finished: Any) -> None:
    finished.export(kinds=("adapter",))
    gone = finished.export(kinds=("gguf",))
    shutil.rmtree(gone)
    said = push(cli, gone.name)
    assert said.code == 2
    assert f"the files of export {gone.name} are gone" in said.err
    assert push(cli).code == 0
    assert "adapter_config.json" in hub.repositories[REPOSITORY].files


def test_offline_is_respected(cli: Any, hub: Any, finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finished.export(kinds=("adapter",))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = push(cli)
    assert said.code == 2
    assert "HF_HUB_OFFLINE" in said.err


def test_the_hub_is_asked_nothing_but_what_a_push_needs(cli: Any, hub: Any, finished: Any) -> None:
    finished.export(kinds=("adapter",))
    assert push(cli).code == 0
    asked = {path.partition("?")[0] for path in hub.paths("GET")}
    assert asked == {"/api/whoami-v2", f"/api/models/{REPOSITORY}"}
    commit = next(body for _, path, body in hub.requests if "/commit/" in path)
    header, *lines = map(json.loads, commit.splitlines())
    assert header["value"]["summary"] == "finetuneflow run-1"
    (card,) = [line["value"] for line in lines if line["value"]["path"] == "README.md"]
    assert b"# analyser" in base64.b64decode(card["content"])
