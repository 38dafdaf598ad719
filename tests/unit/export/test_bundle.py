import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest

from finetuneflow.export.bundle import list_files, write_manifest, write_zip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights.safetensors").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "adapter" / "été.json").write_text("{}", encoding="utf-8")
    (tmp_path / "report.md").write_text("# Report\n" * 500, encoding="utf-8")
    (tmp_path / "events.jsonl").write_text("not part of it", encoding="utf-8")
    return tmp_path


def pack(folder: Path, name: str) -> Path:
    files = list_files(folder, ["report.md", "adapter", "missing.txt"])
    write_manifest(folder, "model", "run-1", files)
    write_zip(folder / name, folder, files)
    return folder / name


def test_the_manifest_holds_size_and_sum_of_every_file_and_of_nothing_else(folder: Path) -> None:
    with zipfile.ZipFile(pack(folder, "a.zip")) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        listed = {row["path"]: row for row in manifest["files"]}
        assert set(archive.namelist()) == {"manifest.json", *listed}
        assert set(listed) == {"adapter/weights.safetensors", "adapter/été.json", "report.md"}
        for path, row in listed.items():
            data = archive.read(path)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (row["size_bytes"], row["sha256"])


def test_the_same_files_give_the_same_bytes_whenever_they_are_packed(folder: Path) -> None:
    first = pack(folder, "a.zip").read_bytes()
    os.utime(folder / "report.md", (1_000_000_000, 1_000_000_000))
    (folder / "report.md").chmod(0o600)
    assert pack(folder, "b.zip").read_bytes() == first


def test_text_is_compressed_and_weights_are_only_stored(folder: Path) -> None:
    with zipfile.ZipFile(pack(folder, "a.zip")) as archive:
        assert archive.getinfo("report.md").compress_size < 200
        assert archive.getinfo("adapter/weights.safetensors").compress_type == zipfile.ZIP_STORED


def test_a_file_that_vanishes_leaves_no_half_written_zip(folder: Path) -> None:
    files = list_files(folder, ["report.md", "adapter"])
    write_manifest(folder, "model", "run-1", files)
    (folder / "report.md").unlink()
    before = set(folder.iterdir())
    with pytest.raises(FileNotFoundError):
        write_zip(folder / "a.zip", folder, files)
    assert set(folder.iterdir()) == before


def test_links_out_of_the_folder_are_left_out(folder: Path) -> None:
    (folder / "adapter" / "link.txt").symlink_to("/etc/hostname")
    assert "adapter/link.txt" not in [file.path for file in list_files(folder, ["adapter"])]
