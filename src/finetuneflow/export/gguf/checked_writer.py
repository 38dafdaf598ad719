"""A large file written once: hashed on the way, each block read back from the disk while others are made."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from finetuneflow.errors import StorageError

BLOCK_BYTES = 8 << 20
"""Written and read back at a time."""
BLOCKS = 3
"""One being filled, one being written, one between."""
SECTOR = 4096
"""Writes past the cache begin and end at multiples of this."""
TOLD_BYTES = 32 << 20
"""Progress is told each time so much more is written."""


class CheckedWriter:
    """Fills an empty file that was opened for reading, too; a thread of its own minds the disk.

    The system's cache is passed by where the file system can: what is read back is then what the disk holds,
    and other programs keep what they have in the cache.
    """

    def __init__(
        self, file: IO[bytes], size: int, on_progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.size = size
        self.on_progress = on_progress
        self.written = self.told = 0
        self._sha256 = hashlib.sha256()
        self._file = file
        self._descriptor, self._direct = _open_past_the_cache(file.fileno())
        # mapped memory is aligned to pages, which writes past the cache ask for
        self._blocks = [mmap.mmap(-1, BLOCK_BYTES) for _ in range(BLOCKS)]
        self._check = mmap.mmap(-1, BLOCK_BYTES)
        self._storing: list[Future[None] | None] = [None] * BLOCKS
        self._disk = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disk.shutdown(wait=True, cancel_futures=True)
        os.close(self._descriptor)

    def write(self, data: bytes | memoryview) -> None:
        """Appends.

        Raises:
            StorageError: the disk gave back other bytes than were written before.
        """
        self._sha256.update(data)
        left = memoryview(data)
        while left:
            number, start = divmod(self.written, BLOCK_BYTES)
            if start == 0:
                self._wait(number % BLOCKS)
            part = left[: BLOCK_BYTES - start]
            self._blocks[number % BLOCKS][start : start + len(part)] = part
            self.written += len(part)
            left = left[len(part) :]
            if start + len(part) == BLOCK_BYTES:
                self._store(number, BLOCK_BYTES)
        if self.on_progress and (self.written - self.told >= TOLD_BYTES or self.written == self.size):
            self.told = self.written
            self.on_progress(self.written, self.size)

    def finish(self) -> str:
        """SHA-256 of what was written, hex, once all of it is on the disk and was read back the same.

        Raises:
            StorageError: the disk gave back other bytes.
        """
        number, rest = divmod(self.written, BLOCK_BYTES)
        if rest:
            self._store(number, rest)
        for slot in range(BLOCKS):
            self._wait(slot)
        os.ftruncate(self._descriptor, self.written)
        os.fsync(self._descriptor)
        return self._sha256.hexdigest()

    def _wait(self, slot: int) -> None:
        storing = self._storing[slot]
        if storing:
            storing.result()

    def _store(self, number: int, length: int) -> None:
        self._storing[number % BLOCKS] = self._disk.submit(self._store_and_read, number, length)

    def _store_and_read(self, number: int, length: int) -> None:
        block, place = self._blocks[number % BLOCKS], number * BLOCK_BYTES
        whole = -(-length // SECTOR) * SECTOR
        try:
            self._put(block, whole, place)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            # a file system that opens files so and then will not write
            os.close(self._descriptor)
            self._descriptor, self._direct = os.dup(self._file.fileno()), False
            self._put(block, whole, place)
        count = os.preadv(self._descriptor, [self._check], place)
        if count < length or not _same(block, self._check, length):
            raise StorageError(
                "the disk gave back other bytes than were written",
                "check the disk (`dmesg`, SMART) before you trust anything on it; nothing was kept",
            )

    def _put(self, block: mmap.mmap, length: int, place: int) -> None:
        with memoryview(block) as view:
            if os.pwrite(self._descriptor, view[:length], place) < length:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not self._direct:
            os.fsync(self._descriptor)
            if sys.platform == "linux":
                os.posix_fadvise(self._descriptor, place, length, os.POSIX_FADV_DONTNEED)


def _same(one: mmap.mmap, other: mmap.mmap, length: int) -> bool:
    words = length // 8
    same = np.array_equal(np.frombuffer(one, "<u8", words), np.frombuffer(other, "<u8", words))
    return same and one[words * 8 : length] == other[words * 8 : length]


def _open_past_the_cache(descriptor: int) -> tuple[int, bool]:
    """The same file once more, and whether reading and writing pass the system's cache by."""
    if sys.platform == "linux":
        try:
            return os.open(Path(f"/proc/self/fd/{descriptor}"), os.O_RDWR | os.O_DIRECT), True
        except OSError:
            pass
    return os.dup(descriptor), False
