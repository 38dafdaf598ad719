from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.artifacts import REGISTRY, REGISTRY_HISTORY
from finetuneflow.deploy import registry
from finetuneflow.deploy.yaml_edit import set_text
from finetuneflow.errors import InputError, NotFoundError, StorageError, UsageError
from finetuneflow.schemas.deployment import RegisteredModel, RegistryEvent

BEFORE = 'models:\n  sfd_analyzer:\n    model_name: "qwen3-sfd-analyzer"\n'
AFTER = 'models:\n  sfd_analyzer:\n    model_name: "qwen3-sfd-analyzer-v2"\n'
BY_HAND = """\
# Models of the application.  Ask Léa before you change anything!
---
defaults: &defaults {temperature: 0.10,   top_p: 'x'}   # flow, odd spaces


models:
    sfd_analyzer:            # reads specifications
        <<: *defaults
        model_name: 'qwen3-sfd-analyzer'   # in Ollama
        enabled: yes
    writer: {model_name: plain-name, "context": 8192}

    # not in use
    old:
        prompt: |
            Tu réponds.
              Toujours.
other:
- 1
-   2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "configs" / REGISTRY
    path.parent.mkdir()
    path.write_text(BEFORE, encoding="utf-8")
    return path


def promote(file: Path, name: str, role: str = "sfd_analyzer", **others: Any) -> RegisteredModel:
    known: dict[str, Any] = {"run_id": "run-1", "export_id": "export-1", "verdict": "PASS", "by": "léa"}
    return registry.promote(file, role=role, model_name=name, **known | others)


def rollback(file: Path, role: str = "sfd_analyzer") -> str:
    return registry.rollback(file, role, by="léa").model_name


def test_promote_and_rollback_give_the_documents_after_and_before_byte_for_byte(file: Path) -> None:
    promoted = promote(file, "qwen3-sfd-analyzer-v2")
    assert file.read_bytes() == AFTER.encode()
    assert (promoted.version, promoted.promoted_by, promoted.verdict) == (1, "léa", "PASS")
    registry.rollback(file, "sfd_analyzer", by="tom", reason="too slow")
    assert file.read_bytes() == BEFORE.encode()
    first, second = registry.history(file)
    assert (first.action, first.previous, first.model_name, first.run_id) == (
        "promote",
        "qwen3-sfd-analyzer",
        "qwen3-sfd-analyzer-v2",
        "run-1",
    )
    assert (second.action, second.by, second.reason, second.model_name) == (
        "rollback",
        "tom",
        "too slow",
        "qwen3-sfd-analyzer",
    )
    assert sorted(path.name for path in file.parent.iterdir()) == sorted([REGISTRY, REGISTRY_HISTORY])


def test_nothing_but_the_name_changes_in_a_file_kept_by_hand(file: Path) -> None:
    file.write_text(BY_HAND, encoding="utf-8")
    promote(file, "v2")
    promote(file, "other-name:q8", "writer")
    expected = BY_HAND.replace("'qwen3-sfd-analyzer'", "'v2'").replace("plain-name", "other-name:q8")
    assert file.read_text(encoding="utf-8") == expected
    rollback(file)
    rollback(file, "writer")
    assert file.read_text(encoding="utf-8") == BY_HAND


def test_a_new_role_is_added_after_the_others_and_the_rest_stays(file: Path) -> None:
    file.write_text(BY_HAND, encoding="utf-8")
    promote(file, "first", "new_role")
    added = '    new_role:\n      model_name: "first"\n'
    assert file.read_text(encoding="utf-8") == BY_HAND.replace("other:\n", added + "other:\n")
    with pytest.raises(UsageError, match="no model before"):
        rollback(file, "new_role")


def test_a_registry_is_made_where_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "new" / REGISTRY
    promote(file, "qwen3-sfd-analyzer")
    assert file.read_text(encoding="utf-8") == BEFORE


@pytest.mark.parametrize("verdict", ["FAIL", "NOT ENOUGH DATA", None])
def test_without_pass_a_reason_is_demanded_and_recorded(file: Path, verdict: str | None) -> None:
    for reason in (None, "", "  "):
        with pytest.raises(UsageError) as error:
            promote(file, "v2", verdict=verdict, force_reason=reason)
        assert error.value.code == "verdict_required"
        assert "--force" in error.value.hint
    assert file.read_text(encoding="utf-8") == BEFORE
    assert registry.history(file) == []
    assert promote(file, "v2", verdict=verdict, force_reason="agreed with the owner").verdict == verdict
    (event,) = registry.history(file)
    assert (event.forced, event.reason, event.verdict) == (True, "agreed with the owner", verdict)


def test_rollback_goes_back_step_by_step_and_then_says_that_there_is_no_more(file: Path) -> None:
    for name in ("v2", "v3", "v4"):
        promote(file, name)
    assert [rollback(file), rollback(file)] == ["v3", "v2"]
    assert promote(file, "v5").version == 4
    assert [rollback(file), rollback(file)] == ["v2", "qwen3-sfd-analyzer"]
    with pytest.raises(UsageError, match="no model before `qwen3-sfd-analyzer`"):
        rollback(file)


def test_a_change_by_hand_is_seen_and_rolled_back_to_what_was_promoted(file: Path) -> None:
    promote(file, "v2")
    file.write_text(file.read_text(encoding="utf-8").replace("v2", "by-hand"), encoding="utf-8")
    (model,) = registry.current(file)
    assert (model.model_name, model.version, model.run_id) == ("by-hand", 0, None)
    restored = registry.rollback(file, "sfd_analyzer", by="léa")
    assert (restored.model_name, restored.version, restored.run_id) == ("v2", 1, "run-1")
    assert registry.current(file) == [restored]


def test_a_writer_that_died_between_history_and_file_changed_nothing(file: Path) -> None:
    promote(file, "v2")
    after = file.read_text(encoding="utf-8")
    promote(file, "v3")
    file.write_text(after, encoding="utf-8")  # as if the process had been killed before the file was written
    (model,) = registry.current(file)
    assert (model.model_name, model.version) == ("v2", 1)
    promote(file, "v4")
    assert [rollback(file), rollback(file)] == ["v2", "qwen3-sfd-analyzer"]


def test_a_torn_line_of_history_is_passed_over_and_the_next_one_is_whole(file: Path) -> None:
    promote(file, "v2")
    log = registry.history_file(file)
    with log.open("ab") as history:
        history.write(b'{"action": "promote", "at": "2026-')
    assert [event.model_name for event in registry.history(file)] == ["v2"]
    promote(file, "v3")
    assert [event.model_name for event in registry.history(file)] == ["v2", "v3"]
    assert log.read_bytes().count(b"2026-\n") == 1  # kept, on a line of its own
    assert rollback(file) == "v2"


def test_a_file_that_cannot_be_written_leaves_the_history_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(file, "v2")
    before = registry.history_file(file).read_bytes(), file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(registry, "atomic_write", full)
    with pytest.raises(StorageError):
        promote(file, "v3")
    assert (registry.history_file(file).read_bytes(), file.read_bytes()) == before


def test_a_full_disk_leaves_the_history_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(file, "v2")
    before = registry.history_file(file).read_bytes(), file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        promote(file, "v3")
    assert (registry.history_file(file).read_bytes(), file.read_bytes()) == before


WRITERS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from finetuneflow.deploy import registry

def write(number):
    role = "sfd_analyzer" if number % 2 else f"role_{number}"
    name = f"model-{number}"
    registry.promote(Path(sys.argv[1]), role=role, model_name=name, run_id="r", export_id=None,
                     verdict="PASS", by=name)

sys.stdin.readline()
with ThreadPoolExecutor(5) as pool:
    list(pool.map(write, range(int(sys.argv[2]), int(sys.argv[2]) + 5)))
"""


def test_twenty_writers_at_once_lose_nothing(file: Path) -> None:
    file.write_text(BY_HAND, encoding="utf-8")
    roles = ["sfd_analyzer" if number % 2 else f"role_{number}" for number in range(20)]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITERS, str(file), str(first)], stdin=subprocess.PIPE)
        for first in range(0, 20, 5)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 4
    events = registry.history(file)
    assert sorted(event.model_name for event in events) == sorted(f"model-{n}" for n in range(20))
    mine = [event for event in events if event.role == "sfd_analyzer"]
    assert [event.version for event in mine] == list(range(1, 11))
    assert [event.previous for event in mine[1:]] == [event.model_name for event in mine[:-1]]
    served = {model.role: model.model_name for model in registry.current(file)}
    assert {role for role in roles if role != "sfd_analyzer"} < set(served)
    assert served["sfd_analyzer"] == mine[-1].model_name
    text = file.read_text(encoding="utf-8")
    assert all(line in text.splitlines() for line in BY_HAND.splitlines() if "sfd-analyzer" not in line)


def test_a_broken_file_is_named_with_its_line_and_left_alone(file: Path) -> None:
    file.write_text("models:\n  a: [1\nb: 2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"models\.yaml:\d: this is not YAML"):
        promote(file, "v2")
    assert file.read_text(encoding="utf-8") == "models:\n  a: [1\nb: 2\n"
    assert [path.name for path in file.parent.iterdir()] == [REGISTRY]


def test_an_unknown_role_is_told_with_the_known_ones(file: Path) -> None:
    with pytest.raises(NotFoundError) as error:
        rollback(file, "nobody")
    assert "`sfd_analyzer`" in error.value.hint
    with pytest.raises(NotFoundError, match="no registry"):
        rollback(file.with_name("none.yaml"))
    assert [path.name for path in file.parent.iterdir()] == [REGISTRY]


@pytest.mark.parametrize(
    ("role", "name"), [("a b", "m"), ("", "m"), ("r", ""), ("r", "a b"), ("r", 'x"\ny: 1'), ("../r", "m")]
)
def test_names_that_could_break_the_file_are_refused(file: Path, role: str, name: str) -> None:
    with pytest.raises(UsageError):
        promote(file, name, role)
    assert file.read_text(encoding="utf-8") == BEFORE


def test_a_link_and_the_permissions_of_the_file_stay(file: Path, tmp_path: Path) -> None:
    file.chmod(0o600)
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    promote(link, "qwen3-sfd-analyzer-v2")
    assert link.is_symlink()
    assert file.read_text(encoding="utf-8") == AFTER
    assert os.stat(file).st_mode & 0o777 == 0o600  # noqa: PTH116
    assert registry.current(link) == registry.current(file)


def test_the_history_stands_beside_the_file_under_its_own_name(tmp_path: Path) -> None:
    assert registry.history_file(tmp_path / REGISTRY).name == REGISTRY_HISTORY
    assert registry.history_file(tmp_path / "roles.yml").name == "roles.history.jsonl"


def test_an_event_of_a_later_version_is_no_obstacle(file: Path) -> None:
    promote(file, "v2")
    with registry.history_file(file).open("a", encoding="utf-8") as log:
        log.write('{"action": "retire", "role": "sfd_analyzer"}\n')
    assert [type(event) for event in registry.history(file)] == [RegistryEvent]


@pytest.mark.parametrize(
    ("source", "edited"),
    [
        ("", 'models:\n  r:\n    model_name: "n"\n'),
        ("# only words\n", '# only words\nmodels:\n  r:\n    model_name: "n"\n'),
        ("a: 1", 'a: 1\nmodels:\n  r:\n    model_name: "n"\n'),
        ("models:\nb: 1\n", 'models:\n  r:\n    model_name: "n"\nb: 1\n'),
        ("models: {}\n", 'models: {r: {model_name: "n"}}\n'),
        ("models:\n  r:\n  s: 1\n", 'models:\n  r:\n    model_name: "n"\n  s: 1\n'),
        ("models:\n  r:\n    model_name:\n", "models:\n  r:\n    model_name: n\n"),
        ("models:\r\n  r: {t: 1}\r\n", 'models:\r\n  r: {t: 1, model_name: "n"}\r\n'),
        (
            "\ufeffmodels:\r\n  s:\r\n    t: 1\r\n",
            '\ufeffmodels:\r\n  s:\r\n    t: 1\r\n  r:\r\n    model_name: "n"\r\n',
        ),
        ("models:\n  r: {model_name: 5, t: !env X}\n", "models:\n  r: {model_name: n, t: !env X}\n"),
    ],
)
def test_a_name_is_set_in_every_shape_of_file(source: str, edited: str) -> None:
    assert set_text(source, ("models", "r", "model_name"), "n", Path("m.yaml")) == edited


@pytest.mark.parametrize("name", ["123", "true", "null", "1e3", "2026-01-01", "12:30:45"])
def test_a_name_that_yaml_would_take_for_something_else_is_quoted(name: str) -> None:
    edited = set_text(
        "models:\n  r:\n    model_name: a\n", ("models", "r", "model_name"), name, Path("m.yaml")
    )
    assert edited == f'models:\n  r:\n    model_name: "{name}"\n'


@pytest.mark.parametrize(
    "source",
    [
        "models:\n  q: &q\n    model_name: a\n  r: *q\n",  # would change q as well
        "models: &m\n  q: {a: 1}\nn: *m\n",
        "models:\n  r: text\n",
        "models:\n- r\n",
        "models:\n  r:\n    model_name: >\n      folded\n",
        "models: {a: [1,\n  2],\n }\n",
    ],
)
def test_what_cannot_be_set_alone_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=r"`models\.r\.model_name` cannot be set"):
        set_text(source, ("models", "r", "model_name"), "n", Path("m.yaml"))


def test_a_file_that_is_nested_too_deeply_is_refused(file: Path) -> None:
    text = "models: " + "[" * 3000 + "]" * 3000 + "\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="nested too deeply"):
        promote(file, "v2")
    assert file.read_text(encoding="utf-8") == text


def test_rollback_to_another_model_of_the_same_name_is_refused(file: Path) -> None:
    promote(file, "shared", run_id="run-1")
    promote(file, "shared", run_id="run-2")
    before = file.read_bytes(), registry.history(file)
    with pytest.raises(UsageError, match="does not tell the two models apart: run run-1, then run run-2"):
        rollback(file)
    assert (file.read_bytes(), registry.history(file)) == before


def test_a_model_that_was_promoted_twice_goes_with_one_rollback(file: Path) -> None:
    promote(file, "v2", verdict=None, force_reason="urgent")
    assert promote(file, "v2").version == 2
    assert registry.current(file)[0].verdict == "PASS"
    assert rollback(file) == "qwen3-sfd-analyzer"
    with pytest.raises(UsageError, match="no model before"):
        rollback(file)
