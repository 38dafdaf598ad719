from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetuneflow.errors import NotFoundError
from finetuneflow.export.bundle import list_files, write_manifest, write_zip
from finetuneflow.export.bundle_check import VerifiedBundle, verify_bundle

PARITY = {
    "passed": True,
    "quantization": "f16",
    "prompts": 32,
    "top1_agreement": 1.0,
    "median_max_logprob_difference": 0.004,
    "first_difference": None,
    "examples": [{"messages": [], "source": "test"}],
}
PLACES = 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "export"
    (root / "adapter").mkdir(parents=True)
    (root / "gguf").mkdir()
    (root / "adapter" / "weights.safetensors").write_bytes(bytes(range(256)) * 50)
    (root / "adapter" / "été.json").write_text("{}", encoding="utf-8")
    (root / "gguf" / "model.gguf").write_bytes(b"GGUF" + bytes(5000))
    (root / "gguf" / "parity.json").write_text(json.dumps(PARITY), encoding="utf-8")
    (root / "report.md").write_text("# Report\n" * 500, encoding="utf-8")
    (root / "events.jsonl").write_text("not part of it", encoding="utf-8")
    return root


def pack(folder: Path, name: str = "model.zip") -> Path:
    files = list_files(folder, ["report.md", "adapter", "gguf", "missing.txt"])
    write_manifest(folder, "model", "run-1", files)
    write_zip(folder / name, folder, files)
    return folder / name


def bad(bundle: VerifiedBundle) -> dict[str, str]:
    assert bundle.whole == (not bundle.bad)
    return {file.path: file.problem for file in bundle.bad}


def repack(source: Path, target: Path, change: Callable[[zipfile.ZipFile], None] | None = None) -> Path:
    """The same files as another program packs them."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        if change:
            change(new)
    return target


def test_the_manifest_holds_size_and_sum_of_every_file_and_of_nothing_else(folder: Path) -> None:
    with zipfile.ZipFile(pack(folder)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        listed = {row["path"]: row for row in manifest["files"]}
        assert set(archive.namelist()) == {"manifest.json", *listed}
        assert set(listed) == {
            "adapter/weights.safetensors",
            "adapter/été.json",
            "gguf/model.gguf",
            "gguf/parity.json",
            "report.md",
        }
        for path, row in listed.items():
            data = archive.read(path)
            assert (len(data), hashlib.sha256(data).hexdigest()) == (row["size_bytes"], row["sha256"])


def test_the_same_files_give_the_same_bytes_whenever_they_are_packed(folder: Path) -> None:
    first = pack(folder, "a.zip").read_bytes()
    os.utime(folder / "report.md", (1_000_000_000, 1_000_000_000))
    (folder / "report.md").chmod(0o600)
    assert pack(folder, "b.zip").read_bytes() == first


def test_text_is_compressed_and_weights_are_only_stored(folder: Path) -> None:
    with zipfile.ZipFile(pack(folder)) as archive:
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


def test_other_programs_read_the_zip(folder: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(pack(folder), tmp_path / "unpacked")
    assert bad(verify_bundle(tmp_path / "unpacked")) == {}


def test_a_whole_zip_and_a_whole_folder_are_told_so_with_what_they_are(folder: Path) -> None:
    path = pack(folder)
    for bundle in (verify_bundle(path), verify_bundle(folder)):
        assert bad(bundle) == {}
        assert (bundle.name, bundle.run_id, bundle.files) == ("model", "run-1", 5)
        assert bundle.size_bytes == sum(
            file.size_bytes for file in list_files(folder, ["report.md", "adapter", "gguf"])
        )


def test_a_zip_that_another_program_packed_is_whole_when_its_files_are(folder: Path, tmp_path: Path) -> None:
    assert bad(verify_bundle(repack(pack(folder), tmp_path / "other.zip"))) == {}


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_anywhere_in_a_zip_is_found(folder: Path, tmp_path: Path, seed: int) -> None:
    whole = pack(folder).read_bytes()
    chance = random.Random(seed)  # noqa: S311 - places of a test
    damaged = tmp_path / "damaged.zip"
    found = 0
    for place in chance.sample(range(len(whole)), PLACES):
        data = bytearray(whole)
        data[place] ^= chance.choice([0xFF, 1 << chance.randrange(8), chance.randrange(1, 256)])
        damaged.write_bytes(data)
        found += not verify_bundle(damaged).whole
    assert found == PLACES


def test_every_byte_of_the_zips_own_records_counts(folder: Path, tmp_path: Path) -> None:
    whole = pack(folder).read_bytes()
    first, end = whole.index(b"manifest.json"), len(whole)
    damaged = tmp_path / "damaged.zip"
    for place in [*range(first + 13), *range(end - 600, end)]:
        data = bytearray(whole)
        data[place] ^= 0x20
        damaged.write_bytes(data)
        assert not verify_bundle(damaged).whole, place


@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_byte_anywhere_in_a_folder_is_found_and_its_file_named(folder: Path, seed: int) -> None:
    pack(folder).unlink()
    chance = random.Random(seed)  # noqa: S311 - places of a test
    files = [*list_files(folder, ["report.md", "adapter", "gguf", "manifest.json"])]
    found = 0
    for _ in range(PLACES):
        (file,) = chance.choices(files, weights=[file.size_bytes for file in files])
        path = folder / file.path
        whole = path.read_bytes()
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        path.write_bytes(data)
        problems = bad(verify_bundle(folder))
        found += file.path in problems or (file.path == "manifest.json" and bool(problems))
        path.write_bytes(whole)
    assert found == PLACES
    assert verify_bundle(folder).whole


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    path = pack(folder)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(range(256))) + 700] ^= 1
    path.write_bytes(data)
    assert "adapter/weights.safetensors" in bad(verify_bundle(path))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_zip_is_one_clear_error(folder: Path, share: float) -> None:
    path = pack(folder)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    ((name, problem),) = bad(verify_bundle(path)).items()
    assert name == "model.zip"
    assert "cut off or damaged" in problem


def test_bytes_after_the_end_are_found(folder: Path) -> None:
    path = pack(folder)
    with path.open("ab") as file:
        file.write(b"more")
    assert not verify_bundle(path).whole


def test_missing_added_and_changed_files_of_a_folder_are_named(folder: Path) -> None:
    pack(folder).unlink()
    (folder / "report.md").unlink()
    (folder / "adapter" / "more.bin").write_bytes(b"x")
    (folder / "adapter" / "été.json").write_text("{ }", encoding="utf-8")
    (folder / "gguf" / "model.gguf").write_bytes(b"GGUF" + bytes(4999) + b"1")
    problems = bad(verify_bundle(folder))
    assert problems == {
        "report.md": "is missing",
        "adapter/more.bin": "is not in the manifest",
        "adapter/été.json": "has more than 2 bytes",
        "gguf/model.gguf": "has another SHA-256 than the manifest says",
    }


def test_the_files_of_the_job_may_lie_in_the_folder_and_links_may_not(folder: Path) -> None:
    pack(folder)
    for name in ("job.json", "result.json", "worker.log", "supervisor.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    assert bad(verify_bundle(folder)) == {}
    (folder / "adapter" / "link.txt").symlink_to("/etc/hostname")
    (folder / "linked").symlink_to("/etc")
    assert bad(verify_bundle(folder)) == dict.fromkeys(
        ("adapter/link.txt", "linked"), "is a link or a device, not a file"
    )


def test_the_zip_beside_the_files_is_checked_too(folder: Path) -> None:
    path = pack(folder)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(range(256))) + 700] ^= 1
    path.write_bytes(data)
    assert "model.zip: adapter/weights.safetensors" in bad(verify_bundle(folder))


def with_entry(name: str, **attributes: Any) -> Callable[[zipfile.ZipFile], None]:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.writestr(info, b"/etc/passwd")

    return add


@pytest.mark.parametrize(
    ("name", "attributes", "problem"),
    [
        ("../outside.txt", {}, "leads out"),
        ("adapter/../../outside.txt", {}, "leads out"),
        ("/etc/cron.d/x", {}, "absolute"),
        ("C:/x", {}, "absolute or strange"),
        ("adapter\\..\\x", {}, "absolute or strange"),
        ("adapter/link", {"external_attr": 0o120777 << 16}, "is a link"),
        ("more.txt", {}, "not in the manifest"),
    ],
)
def test_an_entry_that_no_bundle_has_is_refused(
    folder: Path, tmp_path: Path, name: str, attributes: dict[str, Any], problem: str
) -> None:
    path = repack(pack(folder), tmp_path / "evil.zip", with_entry(name, **attributes))
    assert problem in bad(verify_bundle(path))[name]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    path = repack(pack(folder), tmp_path / "evil.zip", with_entry("report.md"))
    assert bad(verify_bundle(path))["report.md"] == "is there twice"


def test_a_file_that_unpacks_to_more_than_it_says_is_not_unpacked(folder: Path, tmp_path: Path) -> None:
    files = list_files(folder, ["report.md"])
    write_manifest(folder, "model", "run-1", files)
    (folder / "report.md").write_bytes(bytes(200 << 20))
    write_zip(tmp_path / "bomb.zip", folder, files)
    read: list[int] = []
    bundle = verify_bundle(tmp_path / "bomb.zip", on_progress=lambda done, _: read.append(done))
    assert bad(bundle) == {"report.md": "has more than 4,500 bytes"}
    assert max(read) < 4 << 20


def test_a_large_file_is_packed_and_verified_without_being_held_in_memory(folder: Path) -> None:
    with (folder / "adapter" / "large.safetensors").open("wb") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    seen: list[tuple[int, int]] = []
    assert verify_bundle(pack(folder), on_progress=lambda done, total: seen.append((done, total))).whole
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert seen[-1][0] >= 0.99 * seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (None, "is missing"),
        (b"\xff", "cannot be read"),
        (b"[]", "has the format"),
        (b'{"format": "finetuneflow-bundle/9"}', "has the format 'finetuneflow-bundle/9'"),
        (b'{"format": "finetuneflow-bundle/1"}', "is not a list of files"),
    ],
)
def test_a_manifest_that_is_none_is_told(folder: Path, manifest: bytes | None, problem: str) -> None:
    pack(folder).unlink()
    (folder / "manifest.json").unlink()
    if manifest is not None:
        (folder / "manifest.json").write_bytes(manifest)
    assert problem in bad(verify_bundle(folder))["manifest.json"]


def test_a_manifest_that_was_changed_is_told(folder: Path) -> None:
    pack(folder).unlink()
    path = folder / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace("run-1", "run-2"), encoding="utf-8")
    assert bad(verify_bundle(folder)) == {"manifest.json": "was changed: its own sum does not hold"}


def test_a_manifest_cannot_name_files_outside(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x", encoding="utf-8")
    files = [
        file.model_copy(update={"path": "../secret.txt"}) for file in list_files(tmp_path, ["secret.txt"])
    ]
    write_manifest(folder, "model", "run-1", files)
    assert "leads out" in bad(verify_bundle(folder))["../secret.txt"]


@pytest.mark.parametrize("same", [True, False, None])
def test_it_says_what_parity_found_and_whether_it_was_this_file(folder: Path, same: bool | None) -> None:
    sha256 = hashlib.sha256((folder / "gguf" / "model.gguf").read_bytes()).hexdigest()
    named = {} if same is None else {"gguf_sha256": sha256 if same else "0" * 64}
    (folder / "gguf" / "parity.json").write_text(json.dumps(PARITY | named), encoding="utf-8")
    for bundle in (verify_bundle(pack(folder)), verify_bundle(folder)):
        assert bundle.parity is not None
        assert (bundle.parity.passed, bundle.parity.prompts, bundle.parity.same_file) == (True, 32, same)
        assert bundle.parity.gguf == "gguf/model.gguf"
        assert ("gguf/parity.json" in bad(bundle)) == (same is False)


def test_a_parity_file_that_is_none_is_told(folder: Path) -> None:
    (folder / "gguf" / "parity.json").write_text("[]", encoding="utf-8")
    pack(folder).unlink()
    assert bad(verify_bundle(folder)) == {"gguf/parity.json": "is not the result of a check"}


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no bundle"):
        verify_bundle(tmp_path / "none.zip")
