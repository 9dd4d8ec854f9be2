"""What a search has found so far, in a file of the lab: for the command line, the screen and the report to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core.errors import Do, RequestError, text_of, with_told
from core.files import read_if_whole, write_json
from core.folder import LabFolder
from core.formats import counted, human_bytes, number
from core.language import shown, told
from core.text import clean

KINDS = ("quantize", "finetune")
"""What can be searched, by the stage whose settings are looked for."""


@dataclass(frozen=True)
class Try:
    """One choice of settings, and what is known of it.

    Attributes:
        number: by which a person picks it.
        title: for people.
        values: the settings of ``lab.toml`` that make it.
        state: ``waiting``, ``refused`` (by a limit), ``dropped`` (others did better early), ``estimated``,
            ``measured``, ``failed``.
        why: in words, where it was refused, dropped or failed.
        size: bytes of its weights, by arithmetic until it is made.
        loss: what is to be small: the divergence from the float model, or the loss on held-out records.
        worse: the rise of perplexity over the float model's, as a share.
        speed: tokens a second of the ONNX model on this machine.
        onnx_size: bytes of the ONNX model.
        part: from how much of the model, or of the training, ``loss`` was told: 1 is all of it.
        front: whether no other is both smaller and better.
    """

    number: int
    title: str
    values: dict[str, Any]
    state: str = "waiting"
    why: str = ""
    size: int | None = None
    loss: float | None = None
    worse: float | None = None
    speed: float | None = None
    onnx_size: int | None = None
    part: float = 0.0
    front: bool = False

    @property
    def loss_words(self) -> str:
        """The loss for people; an estimate has a tilde."""
        if self.loss is None:
            return ""
        return ("" if self.part >= 1 else "~") + number(self.loss)


@dataclass(frozen=True)
class Board:
    """All tries of one search.

    Attributes:
        kind: of :data:`KINDS`.
        limits: what was asked for, in words.
        tries: in the order of their numbers.
        best: the number of the one that is advised; None while there is none.
        done: whether the search came to its end.
        note: what there is to say of the whole: that time ran out, that no try is within the limits.
    """

    kind: str
    limits: str = ""
    tries: tuple[Try, ...] = ()
    best: int | None = None
    done: bool = False
    note: str = ""
    model: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return with_told({**asdict(self), "tries": [with_told(asdict(each)) for each in self.tries]})

    def picked(self, number: int) -> Try:
        """The try of that number.

        Raises:
            RequestError: there is none, or no figure speaks for it.
        """
        found = next((each for each in self.tries if each.number == number), None)
        if found is None:
            raise RequestError(
                told("There is no try {number} in the last search.", number=number),
                hint=told(
                    "The numbers are: {numbers}.", numbers=", ".join(str(each.number) for each in self.tries)
                ),
                code="search.pick",
            )
        return found


def board_path(lab: LabFolder, kind: str) -> Path:
    """Where the board of a kind of search lies."""
    return lab.state_dir / f"search-{kind}.json"


def write_board(lab: LabFolder, board: Board) -> None:
    """Put a board where :func:`read_board` finds it."""
    write_json(board_path(lab, board.kind), board.as_dict())


def read_board(lab: LabFolder, kind: str) -> Board | None:
    """The board of the last search of that kind; None where there was none, or it is damaged."""
    found = read_if_whole(board_path(lab, kind))
    try:
        tries = tuple(map(_read_try, found["tries"]))
        best = found.get("best")
        return Board(
            kind=kind,
            limits=text_of(found, "limits"),
            tries=tries,
            best=best if any(each.number == best for each in tries) else None,
            done=bool(found.get("done")),
            note=text_of(found, "note"),
            model=str(found.get("model", "")),
        )
    except (KeyError, TypeError, AttributeError):
        return None


def _read_try(data: Mapping[str, Any]) -> Try:
    names = {each.name for each in fields(Try)}
    words = {key: text_of(data, key) for key in ("title", "why") if isinstance(data.get(key), str)}
    found = Try(**{key: value for key, value in data.items() if key in names} | words)
    numbers = (found.number, found.size, found.loss, found.worse, found.speed, found.onnx_size, found.part)
    for value in numbers:
        if not (value is None or (isinstance(value, int | float) and math.isfinite(value))):
            raise TypeError
    if found.number is None or not all(
        isinstance(each, str) for each in (found.title, found.state, found.why)
    ):
        raise TypeError
    return found


def boards_of(lab: LabFolder, model: str) -> list[Board]:
    """The boards of the last searches that were made with this model and tried something."""
    found = [read_board(lab, kind) for kind in KINDS]
    return [board for board in found if board and board.model == model and seen(board)]


def seen(board: Board) -> list[Try]:
    """The tries of which a figure is known, without those that a limit refused before."""
    return [each for each in board.tries if each.loss is not None and each.state != "refused"]


def last_board(lab: LabFolder, kind: str) -> Board:
    """The board of the last search of that kind.

    Raises:
        RequestError: there was none yet.
    """
    board = read_board(lab, kind)
    if board is None:
        words = ("--finetune",) if kind == "finetune" else ()
        raise RequestError(
            told("There was no search in this lab yet."),
            told("{path} is not there.", path=board_path(lab, kind)),
            told("Search with: {command}", command=Do.of("search", lab.root, *words)),
            code="search.none",
        )
    return board


def refused_words(board: Board) -> str:
    """How many choices a limit refused before they were tried; empty for none."""
    sizes = [each.size for each in board.tries if each.state == "refused" and each.size]
    if not sizes:
        return ""
    return told(
        "{choices} of {size} and more: too large.",
        choices=counted(len(sizes), "further choice"),
        size=human_bytes(min(sizes)),
    )


@dataclass(frozen=True)
class Table:
    """A board as a table: its headings, a row for each try, the best first."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = ()
    numbers: tuple[int, ...] = ()


def table(board: Board) -> Table:
    """The board for people, without what a limit refused before it was tried, and without empty columns.

    All texts are cleaned.
    """
    quantize = board.kind == "quantize"
    rows = []
    order = [each for each in ordered(board) if each.state != "refused"]
    for each in order:
        mark = "*" if each.number == board.best else "+" if each.front else ""
        cells = [mark, str(each.number), clean(shown(each.title), keep_newlines=False)]
        if quantize:
            cells += [human_bytes(each.size) if each.size else ""]
        cells += [each.loss_words]
        if quantize:
            cells += [f"{100 * each.worse:.1f} %" if each.worse is not None and each.part >= 1 else ""]
            cells += [f"{each.speed:.1f}" if each.speed is not None else ""]
        why = each.why or ("" if each.state == "measured" else _STATES.get(each.state, each.state))
        cells += [clean(shown(why), keep_newlines=False)]
        rows.append(tuple(cells))
    heads = _HEADS if quantize else (*_HEADS[:3], told("held-out loss"), "")
    used = [at for at in range(len(heads)) if at in (1, 2) or any(row[at] for row in rows)]
    return Table(
        tuple(shown(heads[at]) for at in used),
        tuple(tuple(row[at] for at in used) for row in rows),
        tuple(each.number for each in order),
    )


_HEADS = (
    "",
    told("no"),
    told("settings"),
    told("size"),
    told("divergence"),
    told("worse"),
    told("tokens/s"),
    "",
)
_STATES = {
    "waiting": told("waiting"),
    "refused": told("refused"),
    "dropped": told("dropped"),
    "estimated": told("estimated"),
    "failed": told("failed"),
}
_ORDER = {"measured": 0, "estimated": 1, "dropped": 2, "failed": 3, "waiting": 4, "refused": 5}


def ordered(board: Board) -> list[Try]:
    """The tries as people want them: the advised one, then what was measured and what was not, the best first."""

    def key(each: Try) -> tuple[Any, ...]:
        loss = float("inf") if each.loss is None else each.loss
        return (each.number != board.best, _ORDER.get(each.state, 9), loss, each.number)

    return sorted(board.tries, key=key)


def plot(tries: Sequence[Try], width: int = 56, height: int = 12) -> list[str]:
    """The tries of known size and loss as points on a plane of characters: smaller is further left, better lower.

    ``*`` stands on the front, ``.`` does not; ``~`` is an estimate.
    """
    points = [(each.size, each.loss, each) for each in tries if each.size and each.loss is not None]
    if len(points) < 2:
        return []
    sizes, losses = [point[0] for point in points], [point[1] for point in points]
    low, high = min(sizes), max(sizes)
    least, most = min(losses), max(losses)
    cells = [[" "] * width for _ in range(height)]
    for size, loss, each in sorted(points, key=lambda point: (point[2].front, point[2].part >= 1)):
        column = round((size - low) / max(1, high - low) * (width - 1))
        row = height - 1 - round((loss - least) / max(1e-12, most - least) * (height - 1))
        cells[row][column] = "*" if each.front else "." if each.part >= 1 else "~"
    gutter = max(len(number(most)), len(number(least)))
    lines = []
    for at, row_cells in enumerate(cells):
        mark = number(most) if at == 0 else number(least) if at == height - 1 else ""
        lines.append(f"{mark:>{gutter}} |{''.join(row_cells)}".rstrip())
    lines.append(" " * gutter + " +" + "-" * width)
    left, right = human_bytes(low), human_bytes(high)
    lines.append(" " * (gutter + 2) + left + " " * max(1, width - len(left) - len(right)) + right)
    return lines


PLOT_LEGEND = told("divergence by size: * none is smaller and better, . others, ~ estimated from some layers")
"""What the marks of :func:`plot` mean."""

TABLE_LEGEND = told("* the best within the limits, + none is both smaller and better, ~ an estimate")
"""What the marks of :func:`table` mean."""


def summary(board: Board) -> Mapping[str, Any]:
    """A board in figures, for a job's result."""
    best = next((each for each in board.tries if each.number == board.best), None)
    states = [each.state for each in board.tries]
    return {
        "kind": board.kind,
        "limits": board.limits,
        "tries": len(states),
        "refused": states.count("refused"),
        "measured": states.count("measured"),
        "note": board.note,
        "front": [asdict(each) for each in board.tries if each.front],
        "best_number": board.best,
        "best_title": best and best.title,
        "best_size": best and best.size,
        "best_loss": best and best.loss,
        "best_worse": best and best.worse,
        "best_speed": best and best.speed,
    }
