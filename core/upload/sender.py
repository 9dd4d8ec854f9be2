"""Sending files to a blob container, block by block, so that a stop loses no more than blocks in flight.

Each file is a block blob. A block's id is its number and a part of its file's digest, so a block that the
service lists as uncommitted is the block we would send: after a broken line, a kill or a reboot only the
missing ones are sent (Put Block, Put Block List and Get Block List of the Blob service's REST interface). Every
block carries its MD5, which the service checks; every blob carries the SHA-256 of its file. The folder's name is
the digest of the whole content; what is in the container under another folder's name is copied by the service.

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
from functools import partial
from typing import Any

from core.azure.retry import Stop, in_parallel, retry_limit
from core.azure.storage import Container, Found
from core.errors import LabError, StageError
from core.formats import counted
from core.language import told
from core.upload.contents import PREFIX, Item, unreadable

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


def block_id(index: int, item: Item) -> str:
    """The name of a block: its number and what file it is of, of one length for all blocks."""
    return f"{index:06d}-{item.sha256[:10]}"


@dataclass
class _File:
    """A file that is to be sent, in blocks, to ``blob``; and copied from there to ``target``, if that is another."""

    item: Item
    target: str
    blob: str
    block: int
    missing: list[int]
    left: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def count(self) -> int:
        """Blocks in all."""
        return -(-self.item.size // self.block)


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
        self._lock = threading.Lock()
        self._tasks: deque[tuple[Callable[[], None], bool]] = deque()
        self._working = 0
        self._done = 0
        self._sent = self._kept = 0
        self._allowed = min(self._most, FIRST_CONNECTIONS)
        self._marks: deque[tuple[float, int]] = deque(maxlen=160)

    def plan(self) -> Sent:
        """See what is there already; sends nothing. ``bytes_sent`` is what :meth:`send` will send.

        A file that lies below another upload's prefix is copied there by the service, and one of which blocks lie
        there goes on there: a changed line of ``lab.toml`` gives all of an upload another prefix.
        """
        there = self._container.look(self._prefix, [item.name for item in self._items])
        missing = [item for item in self._items if not whole(there.get(self._prefix + item.name), item)]
        elsewhere = self._elsewhere() if any(item.size > SINGLE for item in missing) else {}
        copies = {found.sha256: name for name, found in elsewhere.items() if found.sha256}
        total = sum(item.size for item in self._items)
        to_send = 0
        # The largest first: the small ones at the end keep every connection busy.
        for item in sorted(missing, key=lambda item: -item.size):
            target = self._prefix + item.name
            source = copies.get(item.sha256, "")
            if item.size <= SINGLE:
                to_send += item.size
                self._tasks.append((partial(self._put_whole, item), True))
            elif source and elsewhere[source].size == item.size:
                self._tasks.append((partial(self._copy, item, source), True))
            else:
                begun = [name for name, found in elsewhere.items() if not found.size and not found.sha256]
                file = self._file(item, [target, *(name for name in begun if name.endswith("/" + item.name))])
                to_send += sum(_length(item.size, file.block, index) for index in file.missing)
                self._add_blocks(file)
        self._done = self._kept = total - to_send
        return Sent(to_send, total - to_send)

    def _elsewhere(self) -> dict[str, Found]:
        """What all uploads have sent to this container; nothing where it may not be listed."""
        try:
            return self._container.listing(PREFIX + "/", unfinished=True, pages=40)
        except LabError as refused:
            if refused.code != "azure.right":
                raise
            return {}

    def _file(self, item: Item, places: list[str]) -> _File:
        """A file in blocks, at the place where most of them are already."""
        size = block_size(item.size)
        wanted = {block_id(index, item): index for index in range(-(-item.size // size))}
        best: tuple[str, set[int]] = (places[0], set())
        for place in places:
            have = {
                wanted[block.id]
                for block in self._uncommitted(place, item)
                if block.id in wanted and block.size == _length(item.size, size, wanted[block.id])
            }
            if len(have) > len(best[1]):
                best = (place, have)
        missing = [index for index in range(len(wanted)) if index not in best[1]]
        return _File(item, places[0], best[0], size, missing, len(missing))

    def _uncommitted(self, blob: str, item: Item) -> list[Any]:
        """The blocks of a half-sent file that the service keeps."""
        from azure.core.exceptions import ResourceNotFoundError

        client = self._container.client.get_blob_client(blob)

        def ask() -> list[Any]:
            try:
                return list(client.get_block_list("uncommitted")[1])
            except ResourceNotFoundError:
                return []

        return self._container.call(ask, item.name)

    def _add_blocks(self, file: _File) -> None:
        steps = [partial(self._put_block, file, index) for index in file.missing]
        self._tasks.extend((step, False) for step in steps or [partial(self._commit, file)])

    def send(self) -> int:
        """Send what is missing; return the bytes that went over the line. Call :meth:`plan` first.

        Raises:
            LabError: a file could not be read, or Azure refused or failed.
            Cancelled: somebody asked to stop.
        """
        try:
            in_parallel(
                self._step, min(self._most, max(1, len(self._tasks))), stop=self._stop, tick=self._steer
            )
        except BaseException:  # Ctrl-C or a cancel as well: what arrived is told
            self._on_end(self._kept + self._sent)
            raise
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
                told("Not everything has arrived."),
                told(
                    "Missing or damaged of {files}: {count}, such as {wrong}.",
                    files=counted(len(self._items), "file"),
                    count=len(wrong),
                    wrong=wrong[0],
                ),
                told("Run the upload again; what is there is kept. Nothing was registered."),
                code="upload.incomplete",
            )

    def _steer(self) -> None:
        """Allow as many connections as the line's rate keeps busy."""
        self._on_bytes(self._done)
        now = time.monotonic()
        self._marks.append((now, self._done))
        began, first = self._marks[0]
        if now - began < 0.2:
            return
        rate = max(0.0, (self._done - first) / (now - began))
        wanted = int(rate * IN_FLIGHT_S / BLOCK) + 1
        self._allowed = max(min(self._most, LEAST_CONNECTIONS), min(self._most, wanted))

    def _step(self) -> bool:
        with self._lock:
            if not self._tasks:
                # Another thread may still have to add some: a copy that is refused is sent.
                if not self._working:
                    return False
                task = None
            else:
                # Small files are bound by the service's answers and not by the line's rate.
                small = self._tasks[0][1]
                allowed = max(self._allowed, FIRST_CONNECTIONS) if small else self._allowed
                task = self._tasks.popleft()[0] if self._working < allowed else None
            self._working += task is not None
        if task is None:
            self._stop.wait(0.02)
            return True
        try:
            task()
        finally:
            with self._lock:
                self._working -= 1
        return True

    def _copy(self, item: Item, source: str) -> None:
        """Have a file copied by the service; send it where that is refused."""
        target = self._prefix + item.name
        if not self._container.copy(source, target, item.name):
            file = self._file(item, [target])
            with self._lock:
                self._done -= item.size
                self._kept -= item.size
                self._add_blocks(file)

    def _put_whole(self, item: Item) -> None:
        data = item.data if item.path is None else b"".join(_read(item, 0, item.size))
        if len(data) != item.size or hashlib.sha256(data).hexdigest() != item.sha256:
            raise _changed(item)
        client = self._container.client.get_blob_client(self._prefix + item.name)
        # Such a body is written in one go, so the limit of a connection is one for all of it.
        more = {"validate_content": True, "connection_timeout": min(60.0, retry_limit())}
        self._container.call(
            lambda: client.upload_blob(data, length=item.size, overwrite=True, **_described(item), **more),
            item.name,
        )
        self.count(item.size, sent=False)
        self.count(item.size, sent=True)

    def _put_block(self, file: _File, index: int) -> None:
        item, start = file.item, index * file.block
        length = _length(item.size, file.block, index)
        md5 = hashlib.md5(usedforsecurity=False)
        for chunk in _read(item, start, length):
            md5.update(chunk)
        client = self._container.client.get_blob_client(file.blob)
        more = {
            "headers": {"Content-MD5": base64.b64encode(md5.digest()).decode()},
            "connection_timeout": min(60.0, retry_limit()),
        }

        def put() -> None:
            with _Body(lambda: _read(item, start, length), length, self) as body:
                client.stage_block(block_id(index, item), body, length=length, **more)

        self._container.call(put, item.name)
        with file.lock:
            file.left -= 1
            last = not file.left
        if last:
            self._commit(file)

    def _commit(self, file: _File) -> None:
        from azure.storage.blob import BlobBlock

        item = file.item
        _unchanged(item)
        client = self._container.client.get_blob_client(file.blob)
        blocks = [BlobBlock(block_id(index, item)) for index in range(file.count)]
        self._container.call(lambda: client.commit_block_list(blocks, **_described(item)), item.name)
        if file.blob != file.target:
            self._copy(item, file.blob)

    def count(self, number: int, *, sent: bool) -> None:
        """Add to the bytes shown; with ``sent`` also to those that arrived."""
        with self._lock:
            if sent:
                self._sent += number
            else:
                self._done += number


class _Body:
    """A request's body that counts what is taken of it, and gives it back when the call fails or is given up.

    It has a length, so that the request is not chunked.
    """

    def __init__(self, read: Callable[[], Iterator[bytes]], length: int, sender: Sender) -> None:
        self._read, self._length, self._sender = read, length, sender
        self._taken = 0
        self._over = False

    def __enter__(self) -> _Body:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._over = True
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
            if self._over:  # the call was given up, and the line is about to break
                return
            yield data
            self._taken += len(data)
            self._sender.count(len(data), sent=False)


def _described(item: Item) -> dict[str, Any]:
    """What a blob says of itself."""
    from azure.storage.blob import ContentSettings

    settings = ContentSettings(content_type="application/octet-stream")
    return {"metadata": {"sha256": item.sha256}, "content_settings": settings}


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
        told("A file changed while it was being sent."),
        told("{path}.", path=item.path or item.name),
        told("Wait until whatever writes it is done, then run the upload again. Nothing was registered."),
        code="upload.changed",
    )
