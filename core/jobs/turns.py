"""Turns: whoever comes first is served first, and all who wait can see the line.

A line is a folder. A job that wants something puts a ticket into it, a small file that it keeps locked (``flock``) as
long as it lives: a ticket that nobody holds belongs to a job that is gone and counts no more. What a job was given
stands in its ticket. One lock for the whole folder is held only while tickets are compared.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.events import now
from core.files import PRIVATE

_LOOK_S = 0.2
_LONGEST = 4096
_LOCK = ".lock"
_TICKET = ".ticket"
OPEN = 0o644
"""The mode of a ticket that other accounts are to read: it names a lab, a job and a process, and nothing else."""


@dataclass(frozen=True)
class Ticket:
    """A job's place in a line.

    Attributes:
        number: the order in which they came.
        lab, job, pid, since: whose it is, and when it came.
        wants: the names of what it can use, any ``count`` of them.
        has: what it was given; empty while it waits.
    """

    number: int
    lab: str
    job: str
    pid: int
    since: str
    wants: tuple[str, ...]
    count: int
    has: tuple[str, ...] = ()

    def competes_with(self, other: Ticket) -> bool:
        """Whether the two can use the same; of one that could not be written down, nobody knows, so it counts."""
        return not self.wants or not other.wants or bool(set(self.wants) & set(other.wants))


@dataclass(frozen=True)
class Ahead:
    """The line as somebody who waits in it sees it.

    Attributes:
        at_work: those who have what is waited for.
        before: those who wait and came earlier.
    """

    at_work: tuple[Ticket, ...]
    before: tuple[Ticket, ...]

    @property
    def place(self) -> int:
        """The own place among those who wait, from 1."""
        return len(self.before) + 1


@contextmanager
def turn(
    place: Path,
    wants: Sequence[str],
    count: int,
    *,
    lab: Path,
    job: str,
    waiting: Callable[[Ahead], object],
    mode: int = PRIVATE,
) -> Iterator[tuple[str, ...] | None]:
    """Wait until it is this job's turn, and have what is given as long as it is entered.

    Args:
        place: the line's folder, which is made if it can be.
        wants: the names of what would do.
        count: how many of them are needed.
        waiting: called at every look that was in vain; what it raises ends the wait.
        mode: of the ticket.

    Yields:
        What was given, in the order of ``wants``; None where there can be no line.
    """
    ticket = Ticket(0, str(lab), job, os.getpid(), now(), tuple(wants), min(count, len(wants)))
    held = _join(place, ticket, mode)
    if held is None:
        yield None
        return
    path, handle, ticket = held
    try:
        given, line = _served(place, ticket, handle)
        while not given:
            waiting(line)
            time.sleep(_LOOK_S)
            given, line = _served(place, ticket, handle)
        yield given
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def tickets(place: Path) -> list[Ticket]:
    """Every ticket of a line whose job lives, in the order in which they came."""
    return _living(place)


def _join(place: Path, ticket: Ticket, mode: int) -> tuple[Path, int, Ticket] | None:
    """Put a ticket at the end of the line: its file, the descriptor that holds it, and it with its number."""
    try:
        if not place.is_dir():
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(place):
            number = max((_number(path) for path in place.glob(f"*{_TICKET}")), default=0) + 1
            path = place / f"{number:06d}-{uuid.uuid4().hex[:8]}{_TICKET}"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            os.fchmod(handle, mode)
            fcntl.flock(handle, fcntl.LOCK_EX)
            _write(handle, ticket)
    except OSError:
        return None
    return path, handle, replace(ticket, number=number)


def _served(place: Path, mine: Ticket, handle: int) -> tuple[tuple[str, ...], Ahead]:
    """What is given to a ticket now, and the line. Nothing while one who came earlier waits, or too little is free."""
    try:
        with _locked(place):
            line = _line(_living(place, tidy=True), mine)
            taken = {name for each in line.at_work for name in each.has}
            free = [name for name in mine.wants if name not in taken]
            if line.before or len(free) < mine.count:
                return (), line
            given = tuple(free[: mine.count])
            _write(handle, replace(mine, has=given))
            return given, line
    except OSError:  # the folder is gone: nobody can keep order any more
        return mine.wants[: mine.count], Ahead((), ())


def _line(every: Sequence[Ticket], mine: Ticket) -> Ahead:
    others = [each for each in every if each.number != mine.number and each.competes_with(mine)]
    return Ahead(
        tuple(each for each in others if each.has),
        tuple(each for each in others if not each.has and each.number < mine.number),
    )


def _living(place: Path, *, tidy: bool = False) -> list[Ticket]:
    found = []
    for path in sorted(place.glob(f"*{_TICKET}")):
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if tidy:
                path.unlink()
        except BlockingIOError:
            found.append(_read(handle, _number(path)))
        except OSError:  # of another account, which alone can remove it: it counts no more
            continue
        finally:
            os.close(handle)
    return found


def _number(path: Path) -> int:
    head = path.name.partition("-")[0]
    return int(head) if head.isascii() and head.isdigit() else 0


def _write(handle: int, ticket: Ticket) -> None:
    told = {key: value for key, value in asdict(ticket).items() if key != "number"}
    data = json.dumps(told).encode()[:_LONGEST]
    with suppress(OSError):  # a full disk: the lock alone still keeps the place
        os.pwrite(handle, data, 0)
        os.ftruncate(handle, len(data))


def _read(handle: int, number: int) -> Ticket:
    """A ticket as its file tells it; of one that says nothing, all that is known is that it is there."""
    told: Any = None
    with suppress(OSError, ValueError, RecursionError):
        told = json.loads(os.pread(handle, _LONGEST, 0))
    told = told if isinstance(told, dict) else {}
    return Ticket(
        number,
        str(told.get("lab") or ""),
        str(told.get("job") or ""),
        pid if isinstance(pid := told.get("pid"), int) else 0,
        str(told.get("since") or ""),
        _names(told.get("wants")),
        count if isinstance(count := told.get("count"), int) and count > 0 else 1,
        _names(told.get("has")),
    )


def _names(told: Any) -> tuple[str, ...]:
    return tuple(map(str, told)) if isinstance(told, list) else ()


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Only one process at a time compares tickets."""
    path = place / _LOCK
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, OPEN)
        with suppress(OSError):
            os.fchmod(handle, OPEN)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
