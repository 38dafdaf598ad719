"""`finetuneflow export RUN --out FOLDER`: where the files go, and what is refused before the work."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.schemas.export import ExportConfig
from finetuneflow.services import exports, jobs


@pytest.fixture
def exported(finished: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an export that `finetuneflow export` finds done already."""
    folder: Path = finished.export(kinds=("adapter",))
    monkeypatch.setattr(
        exports, "start", lambda context, run_id, *, config: jobs.get_job(context, folder.name)
    )
    monkeypatch.setattr(exports, "default_config", lambda *_: ExportConfig())
    return folder


def test_a_link_to_an_empty_folder_is_filled(cli: Any, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    said = cli("export", "run-1", "--to", "adapter", "--out", tmp_path / "link", "--json")
    assert said.code == 0, said.err
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "adapter" / "adapter_config.json").is_file()


def test_the_folder_that_one_stands_in_is_refused_before_the_work(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    for out in (".", tmp_path / "link", "../empty"):
        said = cli("export", "run-none", "--out", out)
        assert said.code == 2
        assert f"`{out}` is there already" in said.err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    said = cli("export", "run-none", "--out", tmp_path / "file" / "new" / "out")
    assert (said.code, "is no folder to write in" in said.err) == (2, True)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for a folder of somebody else
    said = cli("export", "run-none", "--out", tmp_path / "new" / "out")
    assert (said.code, f"`{tmp_path}` is no folder to write in" in said.err) == (2, True)


def test_a_copy_that_fails_tells_where_the_whole_export_lies(
    cli: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "copyfile", broken)
    said = cli("export", "run-1", "--to", "adapter", "--out", tmp_path / "out")
    assert said.code == 1
    assert f"hint: the export is whole in {exported}" in said.err
    assert "unexpected" not in said.err
    assert not (tmp_path / "out").exists()
