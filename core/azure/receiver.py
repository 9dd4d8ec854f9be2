"""Bringing files from a blob container into a folder: in parts, at once, going on where it stopped, verified.

A file grows as ``<name>.part``, beside it ``<name>.parts`` with the numbers of the parts that are on the
disk and the blob's etag; a blob that has changed since begins anew. Each part is asked for with that etag.
A file is whole when its SHA-256 (what OlivePress wrote into the blob's metadata) or its MD5 (what the
service keeps) agrees, and its size in any case.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from core.azure.patience import Stop
from core.azure.storage import Container, Found
from core.errors import Cancelled, RequestError, StageError
from core.files import explained

PART = 8 << 20
"""Bytes of a part."""
READ = 1 << 20


@dataclass
class _Download:
    blob: Found
    target: Path
    missing: set[int]
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def journal(self) -> Path:
        return self.target.with_name(self.target.name + ".parts")


class Receiver:
    """Downloads the blobs below a prefix into a folder."""

    def __init__(
        self,
        container: Container,
        prefix: str,
        folder: Path,
        *,
        concurrency: int = 8,
        stop: Stop,
        on_bytes: Callable[[int, int], None],
        say: Callable[[str], None],
    ) -> None:
        """Receive what lies below a prefix.

        Args:
            prefix: of the blobs' names; what follows it is the path in the folder.
            on_bytes: gets the bytes that are there and their total.
            say: gets lines for people.
        """
        self._container, self._folder, self._stop = container, folder, stop
        self._prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._concurrency, self._on_bytes, self._say = concurrency, on_bytes, say
        self._lock = threading.Lock()
        self._done = 0
        self._total = 0
        self._error: BaseException | None = None

    def receive(self) -> dict[str, int]:
        """Bring everything; return the sizes of the files by their names.

        Raises:
            RequestError: there is nothing below the prefix, or a name would leave the folder.
            StageError: a file arrived damaged twice, or Azure failed.
        """
        found = self._container.listing(self._prefix)
        if not found:
            single = self._container.head(self._prefix.rstrip("/"))
            if single is None:
                raise RequestError(
                    "The model's files are gone from the storage.",
                    f"Nothing lies at {self._prefix.rstrip('/')}.",
                    "Take another version, or upload it again.",
                    code="fetch.gone",
                )
            found = {single.name: single}
            self._prefix = (
                self._prefix.rstrip("/").rsplit("/", 1)[0] + "/" if "/" in self._prefix.rstrip("/") else ""
            )
        blobs = {safe_name(name.removeprefix(self._prefix)): blob for name, blob in found.items()}
        self._total = sum(blob.size for blob in blobs.values())
        with explained(self._folder):
            room(self._folder, self._total)
            downloads = [self._prepare(name, blob) for name, blob in sorted(blobs.items())]
            self._run([item for item in downloads if item is not None])
        return {name: blob.size for name, blob in blobs.items()}

    def _prepare(self, name: str, blob: Found) -> _Download | None:
        """What of a file is still missing; None if it is there."""
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        item = _Download(blob, target, set(range(-(-blob.size // PART))))
        if target.is_file() and target.stat().st_size == blob.size and not item.journal.exists():
            # Put in place only after it was verified, in this or an earlier run.
            self._done += blob.size
            return None
        lines: list[str] = []
        with suppress(OSError, UnicodeDecodeError):
            lines = item.journal.read_text().splitlines()
        if (
            lines[:1] == [f"{blob.etag} {blob.size}"]
            and item.part.is_file()
            and item.part.stat().st_size == blob.size
        ):
            item.missing -= {int(line) for line in lines[1:] if line.isdigit()}
        else:
            self._start(item)
        self._done += blob.size - sum(_length(blob.size, index) for index in item.missing)
        return item

    def _start(self, item: _Download) -> None:
        item.missing = set(range(-(-item.blob.size // PART)))
        with item.part.open("wb") as stream:
            stream.truncate(item.blob.size)
        item.journal.write_text(f"{item.blob.etag} {item.blob.size}\n")

    def _run(self, downloads: list[_Download]) -> None:
        for item in downloads:
            if not item.missing:
                self._finish(item)
        tasks = deque((item, index) for item in downloads for index in sorted(item.missing))
        threads = [
            threading.Thread(target=self._work, args=(tasks,), name=f"receive-{number}", daemon=True)
            for number in range(min(self._concurrency, len(tasks)))
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self._stop.wait(0.05)
                self._on_bytes(self._done, self._total)
        except BaseException:  # Ctrl-C or a cancel: the threads end as well
            self._error = self._error or Cancelled()
            raise
        if self._error is not None:
            raise self._error
        self._on_bytes(self._done, self._total)

    def _work(self, tasks: deque[tuple[_Download, int]]) -> None:
        while self._error is None:
            try:
                item, index = tasks.popleft()
            except IndexError:
                return
            try:
                self._fetch(item, index)
                with item.lock:
                    item.missing.discard(index)
                    last = not item.missing
                if last:
                    self._finish(item)
            except BaseException as error:  # raised again in _run
                self._error = self._error or error

    def _fetch(self, item: _Download, index: int) -> None:
        from azure.core import MatchConditions

        client = self._container.client.get_blob_client(item.blob.name)
        start, length = index * PART, _length(item.blob.size, index)

        def get() -> None:
            options: dict[str, Any] = {}
            if item.blob.etag:
                options = {"etag": f'"{item.blob.etag}"', "match_condition": MatchConditions.IfNotModified}
            stream = client.download_blob(offset=start, length=length, max_concurrency=1, **options)
            done = 0
            try:
                with item.part.open("r+b", buffering=0) as file:
                    file.seek(start)
                    for piece in stream.chunks():
                        self._stop.check()
                        file.write(piece)
                        done += len(piece)
                        self._count(len(piece))
                    if done != length:
                        raise _short(item, done, length)
                    os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())
            except BaseException:  # what did not come whole does not count, for whatever reason
                self._count(-done)
                raise

        self._container.call(get, item.target.name)
        with item.lock, item.journal.open("a") as journal:
            journal.write(f"{index}\n")

    def _finish(self, item: _Download) -> None:
        """Verify a file and put it in its place; fetch it once more when it is damaged."""
        if not self._agrees(item):
            self._say(f"{item.target.name} arrived damaged; fetching it again.")
            self._count(-item.blob.size)
            self._start(item)
            for index in sorted(item.missing):
                self._fetch(item, index)
            if not self._agrees(item):
                raise StageError(
                    "A file arrived damaged twice.",
                    f"{item.target.name}: its content is not what was uploaded.",
                    "Take another version of the model, or have it uploaded again.",
                    code="fetch.damaged",
                )
        os.replace(item.part, item.target)
        item.journal.unlink(missing_ok=True)

    def _agrees(self, item: _Download) -> bool:
        if item.part.stat().st_size != item.blob.size:
            return False
        if item.blob.sha256:
            return bool(_hash(item.part, "sha256", self._stop).hexdigest() == item.blob.sha256)
        if item.blob.md5:
            return bool(_hash(item.part, "md5", self._stop).digest() == item.blob.md5)
        return True

    def _count(self, number: int) -> None:
        with self._lock:
            self._done += number


def _hash(path: Path, algorithm: str, stop: Stop) -> Any:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(READ):
            stop.check()
            digest.update(data)
    return digest


def _length(size: int, index: int) -> int:
    return min(PART, size - index * PART)


def _short(item: _Download, done: int, length: int) -> Exception:
    from azure.core.exceptions import ServiceResponseError

    error: Exception = ServiceResponseError(f"{item.target.name}: {done} of {length} bytes of a part came.")
    return error


def safe_name(name: str) -> str:
    """A blob's name as a path below a folder.

    Raises:
        RequestError: it would lead out of the folder.
    """
    path = PurePosixPath(name)
    bad = (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or "\\" in name
        or "\0" in name
        or ":" in name
    )
    if bad:
        raise RequestError(
            "The model has a file that would be written outside its folder.",
            f"{name!r}.",
            "Do not use this model; tell its owner.",
            code="fetch.outside",
        )
    return path.as_posix()


def room(folder: Path, needed: int) -> None:
    """Refuse a download that the disk has no room for.

    Raises:
        MachineError: with what is free and what is needed.
    """
    import shutil

    from core.errors import MachineError
    from core.formats import human_bytes

    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            "There is not enough room on the disk.",
            f"The model has {human_bytes(needed)}, {folder} has {human_bytes(free)} free.",
            "Free some space, or use a folder on another disk.",
            code="disk.full",
        )
