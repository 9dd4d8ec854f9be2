"""Sending files to a blob container, block by block, so that a stop loses no more than blocks in flight.

Each file is a block blob. A block's id is its number and the block size, and the folder's name is the
digest of the whole content, so a block that the service lists as uncommitted is the block we would send:
after a broken line, a kill or a reboot only the missing ones are sent (Put Block, Put Block List and
Get Block List of the Blob service's REST interface). Every block carries its MD5, which the service
checks; every blob carries the SHA-256 of its file.

How many connections work at once is found while sending: as many as keep about two seconds of work in
flight, at least four, at most the number asked for. On a slow line a break then costs little.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.azure.patience import Stop, longest_call, patience
from core.azure.storage import Container, Found
from core.errors import Cancelled, StageError
from core.upload.contents import Item, unreadable

BLOCK = 4 << 20
"""Bytes of a block, unless the file needs more than 50,000 of them, the service's limit."""
MAX_BLOCKS = 50_000
SINGLE = 1 << 20
"""Up to this many bytes a file is sent in one call."""
CHUNK = 1 << 18
"""Bytes handed to the connection at a time; between two a cancel is seen. Each has the time limit of a
connection, so it must be small enough for a slow line."""
LEAST_CONNECTIONS = 4
FIRST_CONNECTIONS = 8
IN_FLIGHT_S = 2.0


def block_size(size: int) -> int:
    """Bytes of each block of a file; depends on nothing else, so that a later run cuts it the same."""
    needed = -(-size // MAX_BLOCKS)
    return max(BLOCK, -(-needed // BLOCK) * BLOCK)


def block_id(index: int, size: int) -> str:
    """The name of a block: its number and size, of one length for all blocks of a file."""
    return f"{index:06d}-{size:010d}"


@dataclass
class _File:
    item: Item
    blob: str
    block: int
    missing: list[int]
    count: int
    left: int
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Sent:
    """What an upload did: bytes sent over the line, and bytes that were there before."""

    bytes_sent: int
    bytes_kept: int


class Sender:
    """Sends items below a prefix of a container."""

    def __init__(
        self,
        container: Container,
        prefix: str,
        items: tuple[Item, ...],
        *,
        concurrency: int,
        stop: Stop,
        on_bytes: Callable[[int], None],
        on_end: Callable[[int], None] = lambda arrived: None,
    ) -> None:
        """Send these items below a prefix.

        Args:
            concurrency: connections at once, at most.
            on_bytes: gets the bytes that are there or on their way, now and then.
            on_end: gets the bytes that have arrived when the sending was stopped or failed.
        """
        self._container, self._prefix, self._items = container, prefix.rstrip("/") + "/", items
        self._most = max(1, concurrency)
        self._stop, self._on_bytes, self._on_end = stop, on_bytes, on_end
        self._lock = threading.Condition()
        self._tasks: deque[tuple[_File, int]] = deque()
        self._working = 0
        self._error: BaseException | None = None
        self._done = 0
        self._sent = self._kept = 0
        self._allowed = min(self._most, FIRST_CONNECTIONS)
        self._marks: deque[tuple[float, int]] = deque(maxlen=160)

    def plan(self) -> Sent:
        """See what is there already; sends nothing. ``bytes_sent`` is what :meth:`send` will send."""
        there = self._container.look(self._prefix, [item.name for item in self._items])
        kept = 0
        files = []
        for item in self._items:
            blob = self._prefix + item.name
            found = there.get(blob)
            if whole(found, item):
                kept += item.size
                continue
            size = block_size(item.size)
            count = -(-item.size // size)
            have: set[int] = set()
            if item.size > SINGLE:
                have = self._blocks(blob, item, size, count)
            missing = [index for index in range(count) if index not in have]
            kept += item.size - sum(_length(item.size, size, index) for index in missing)
            files.append(_File(item, blob, size, missing, count, len(missing)))
        # The largest first: the small ones at the end keep every connection busy.
        for file in sorted(files, key=lambda file: -file.item.size):
            self._tasks.extend(
                (file, index) for index in (file.missing if file.item.size > SINGLE else [0]) or [-1]
            )
        self._done = self._kept = kept
        total = sum(item.size for item in self._items)
        return Sent(total - kept, kept)

    def _blocks(self, blob: str, item: Item, size: int, count: int) -> set[int]:
        """The numbers of the blocks of a half-sent file that the service keeps."""
        from azure.core.exceptions import ResourceNotFoundError

        client = self._container.client.get_blob_client(blob)

        def ask() -> list[Any]:
            try:
                return list(client.get_block_list("uncommitted")[1])
            except ResourceNotFoundError:
                return []

        uncommitted = self._container.call(ask, item.name, limit=longest_call())
        names = {block_id(index, size): index for index in range(count)}
        sizes = {names[block.id]: block.size for block in uncommitted if block.id in names}
        return {index for index, length in sizes.items() if length == _length(item.size, size, index)}

    def send(self) -> int:
        """Send what is missing; return the bytes that went over the line. Call :meth:`plan` first.

        Raises:
            LabError: a file could not be read, or Azure refused or failed.
            Cancelled: somebody asked to stop.
        """
        threads = [
            threading.Thread(target=self._work, name=f"send-{number}", daemon=True)
            for number in range(min(self._most, max(1, len(self._tasks))))
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self._stop.wait(0.02)
                self._steer()
                self._on_bytes(self._done)
                with self._lock:
                    if self._error is not None:
                        raise self._error
        except BaseException:  # Ctrl-C or a cancel: the threads end as well, and what arrived is told
            with self._lock:
                self._error = self._error or Cancelled()
                self._tasks.clear()
                self._lock.notify_all()
            self._on_end(self._kept + self._sent)
            raise
        if self._error is not None:
            raise self._error
        self._on_bytes(self._done)
        return self._sent

    def verify(self) -> None:
        """Make sure that every byte is there.

        Raises:
            StageError: something is missing or of another content.
        """
        there = self._container.look(self._prefix, [item.name for item in self._items])
        wrong = [item.name for item in self._items if not whole(there.get(self._prefix + item.name), item)]
        if wrong:
            raise StageError(
                "Not everything has arrived.",
                f"{len(wrong)} of {len(self._items)} files are missing or damaged, such as {wrong[0]}.",
                "Run the upload again; what is there is kept. Nothing was registered.",
                code="upload.incomplete",
            )

    def _steer(self) -> None:
        """Allow as many connections as the line's rate keeps busy."""
        now = time.monotonic()
        self._marks.append((now, self._done))
        began, first = self._marks[0]
        if now - began < 0.2:
            return
        rate = max(0.0, (self._done - first) / (now - began))
        wanted = int(rate * IN_FLIGHT_S / BLOCK) + 1
        with self._lock:
            self._allowed = max(min(self._most, LEAST_CONNECTIONS), min(self._most, wanted))
            self._lock.notify_all()

    def _work(self) -> None:
        while True:
            with self._lock:
                while self._error is None and self._tasks and not self._may_start():
                    self._lock.wait(1.0)
                if self._error is not None or not self._tasks:
                    return
                file, index = self._tasks.popleft()
                self._working += 1
            try:
                self._send_one(file, index)
            except BaseException as error:  # handed to the thread that waits in send()
                with self._lock:
                    self._error = self._error or error
            finally:
                with self._lock:
                    self._working -= 1
                    self._lock.notify()

    def _may_start(self) -> bool:
        # Small files are bound by the service's answers and not by the line's rate.
        small = self._tasks[0][0].item.size <= SINGLE
        return self._working < (max(self._allowed, FIRST_CONNECTIONS) if small else self._allowed)

    def _send_one(self, file: _File, index: int) -> None:
        client = self._container.client.get_blob_client(file.blob)
        item = file.item
        if item.size <= SINGLE:
            self._put_whole(client, item)
            return
        if index >= 0:
            self._put_block(client, file, index)
        with file.lock:
            file.left -= 1
            last = file.left <= 0
        if last:
            self._commit(client, file)

    def _put_whole(self, client: Any, item: Item) -> None:
        from azure.storage.blob import ContentSettings

        data = item.data if item.path is None else b"".join(_read(item, 0, item.size))
        if len(data) != item.size or hashlib.sha256(data).hexdigest() != item.sha256:
            raise _changed(item)
        settings = ContentSettings(content_type="application/octet-stream")
        # Such a body is written in one go, so the limit of a connection is one for all of it.
        limit = min(60.0, patience())
        self._container.call(
            lambda: client.upload_blob(
                data,
                length=item.size,
                overwrite=True,
                metadata={"sha256": item.sha256},
                content_settings=settings,
                validate_content=True,
                connection_timeout=limit,
            ),
            item.name,
        )
        self.count(item.size, sent=False)
        self.count(item.size, sent=True)

    def _put_block(self, client: Any, file: _File, index: int) -> None:
        item, start = file.item, index * file.block
        length = _length(item.size, file.block, index)
        md5 = hashlib.md5(usedforsecurity=False)
        for chunk in _read(item, start, length):
            md5.update(chunk)
        body = _Body(lambda: _read(item, start, length), length, self)
        name = block_id(index, file.block)
        headers = {"Content-MD5": base64.b64encode(md5.digest()).decode()}

        limit = min(60.0, patience())

        def put() -> None:
            with body:
                client.stage_block(name, body, length=length, headers=headers, connection_timeout=limit)

        self._container.call(put, item.name)

    def _commit(self, client: Any, file: _File) -> None:
        from azure.storage.blob import BlobBlock, ContentSettings

        item = file.item
        _unchanged(item)
        blocks = [BlobBlock(block_id(index, file.block)) for index in range(file.count)]
        settings = ContentSettings(content_type="application/octet-stream")
        self._container.call(
            lambda: client.commit_block_list(
                blocks, metadata={"sha256": item.sha256}, content_settings=settings
            ),
            item.name,
            limit=longest_call(),
        )

    def count(self, number: int, *, sent: bool) -> None:
        """Add to the bytes shown; with ``sent`` also to those that arrived."""
        with self._lock:
            if sent:
                self._sent += number
            else:
                self._done += number


class _Body:
    """A request's body that counts what is taken of it, gives it back when the call fails, and can be stopped.

    It has a length, so that the request is not chunked; it is iterated anew for each try.
    """

    def __init__(self, read: Callable[[], Iterator[bytes]], length: int, sender: Sender) -> None:
        self._read, self._length, self._sender = read, length, sender
        self._taken = 0

    def __enter__(self) -> _Body:
        self._taken = 0
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            # Retried or answered early, the whole of it has arrived.
            self._sender.count(self._length - self._taken, sent=False)
            self._sender.count(self._length, sent=True)
        else:
            self._sender.count(-self._taken, sent=False)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        for data in self._read():
            for start in range(0, len(data), CHUNK):
                self._sender._stop.check()
                piece = data[start : start + CHUNK] if len(data) > CHUNK else data
                yield piece
                self._taken += len(piece)
                self._sender.count(len(piece), sent=False)


def whole(found: Found | None, item: Item) -> bool:
    """Whether a blob is the committed, whole content of an item."""
    return found is not None and found.size == item.size and found.sha256 == item.sha256


def _length(size: int, block: int, index: int) -> int:
    return min(block, size - index * block)


def _read(item: Item, start: int, length: int) -> Iterator[bytes]:
    """The bytes of a part of a file, in chunks.

    Raises:
        StageError: it cannot be read, or is not what it was when it was digested.
    """
    if item.path is None:
        yield item.data[start : start + length]
        return
    _unchanged(item)
    try:
        with item.path.open("rb", buffering=0) as stream:
            stream.seek(start)
            while length > 0:
                data = stream.read(min(CHUNK, length))
                if not data:
                    raise _changed(item)
                length -= len(data)
                yield data
    except OSError as error:
        raise unreadable(item.path, error) from None


def _unchanged(item: Item) -> None:
    if item.path is None:
        return
    try:
        found = os.stat(item.path)
    except OSError as error:
        raise unreadable(item.path, error) from None
    if (found.st_size, found.st_mtime_ns) != (item.size, item.stamp):
        raise _changed(item)


def _changed(item: Item) -> StageError:
    return StageError(
        "A file changed while it was being sent.",
        f"{item.path or item.name}.",
        "Wait until whatever writes it is done, then run the upload again. Nothing was registered.",
        code="upload.changed",
    )
