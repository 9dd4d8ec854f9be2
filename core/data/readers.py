"""Rows from files, one at a time, each with the line it stands on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from core.data.types import Problem, Row

BOM = b"\xef\xbb\xbf"


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where they are gzip (told by the first two bytes, not the name)."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def parse_line(raw: bytes) -> dict[str, Any] | Problem | None:
    """The record on one line of JSON Lines; None for a blank line."""
    raw = raw.strip()
    if not raw:
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Problem(
            "invalid-utf8",
            f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8",
            "save the file as UTF-8",
        )
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem(
            "broken-json", f"{error.msg}, at column {error.colno}", "correct the line or remove it"
        )
    except RecursionError:
        return Problem("broken-json", "it is nested too deeply", "correct the line or remove it")
    if not isinstance(value, dict):
        return Problem(
            "wrong-type", f"it holds {type(value).__name__}, not an object {{…}}", "write a JSON object"
        )
    return value


def iter_rows(path: Path) -> Iterator[Row]:
    """Every record of a file in order; blank lines are passed over, broken ones carry a problem."""
    name = path.name
    with open_bytes(path) as stream:
        for line, raw in enumerate(stream, 1):
            found = parse_line(raw.removeprefix(BOM) if line == 1 else raw)
            if found is None:
                continue
            if isinstance(found, Problem):
                yield Row(name, line, None, found)
            else:
                yield Row(name, line, found)
