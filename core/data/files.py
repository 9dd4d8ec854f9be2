"""Which files hold the records, what they are, and their bytes."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from core.data.types import Problem
from core.errors import RequestError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
LEFT_OUT = ".left-out.jsonl"
BOM = codecs.BOM_UTF8
HEAD = 1 << 16

_HELD_OUT = re.compile(r"(?:^|[^a-z])(?:test|eval|valid|validation|dev|held-?_?out)(?:[^a-z]|$)")
_WRAPPED = re.compile(r'\s*\{\s*"(?:data|rows|train|examples|records|items|instances)"\s*:\s*(?=\[)')
_PACKED = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ\x00": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"ARROW1": "an Arrow file",
}


class UnreadableFile(Exception):
    """A file that holds no records that can be read; `problem` says why."""

    def __init__(self, message: str, fix: str, kind: str = "unreadable-file") -> None:
        super().__init__(message)
        self.problem = Problem(kind, message, fix)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file with records. `name` is how findings call it; `held_out`: its name says test or validation."""

    path: Path
    name: str
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file is: `form` is jsonl, json, csv or parquet; `start` is where a JSON array begins."""

    form: str
    packed: bool = False
    start: int = 0
    delimiter: str = ","


def data_files(path: Path) -> list[DataFile]:
    """The files with records at a path: itself, or those below a folder, by name.

    In a folder, files (or folders) whose name says test, validation, dev or eval hold the held-out
    rows, as long as there are others to train on.

    Raises:
        RequestError: a folder without such a file.
    """
    if not path.is_dir():
        return [DataFile(path, path.name)]
    found = []
    for each in sorted(path.rglob("*")):
        name = each.relative_to(path).as_posix()
        plain = name.lower().removesuffix(".gz")
        if not each.is_file() or any(part.startswith(".") for part in each.relative_to(path).parts):
            continue
        if plain.endswith(SUFFIXES) and not plain.endswith(LEFT_OUT):
            found.append(DataFile(each, name, bool(_HELD_OUT.search(name.lower()))))
    if not found:
        raise RequestError(
            "The data folder has no records.",
            f"{path} has no file that ends in {', '.join(SUFFIXES)} (or one of these and .gz).",
            "Put the records there, or set data.file to the right folder.",
        )
    if all(each.held_out for each in found):
        found = [DataFile(each.path, each.name) for each in found]
    return found


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip, told by its first two bytes and not its name."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def open_bytes(path: Path) -> tuple[IO[bytes], IO[bytes]]:
    """The file's bytes, unpacked where they are gzip, and the stream below whose position is the progress."""
    raw = path.open("rb", buffering=0)
    if raw.read(2) == b"\x1f\x8b":
        raw.seek(0)
        # No BufferedReader around it: at the end of a file that is cut off it would lose the last rows.
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw)), cast(IO[bytes], raw)
    raw.seek(0)
    return cast(IO[bytes], io.BufferedReader(raw, 1 << 18)), cast(IO[bytes], raw)


def sniff(path: Path) -> Kind | None:
    """What a file is, by its bytes first and its name second; None where it is empty.

    Raises:
        UnreadableFile: it is no form of records that can be read.
        OSError: it cannot be opened.
    """
    packed = is_gzip(path)
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if packed:
        try:
            head = zlib.decompressobj(31).decompress(head, HEAD)
        except zlib.error:
            raise UnreadableFile("the gzip file is damaged", "make or copy the file again") from None
    if head.startswith(b"PAR1"):
        if packed:
            raise UnreadableFile("it is Parquet inside gzip", "unpack the file with gunzip")
        return Kind("parquet")
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise UnreadableFile(
                f"it is {what}, not records", "unpack or export it to JSON Lines, CSV or Parquet"
            )
    if (
        head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        or head[:64].count(0) > len(head[:64]) // 4
    ):
        raise UnreadableFile("it is UTF-16 or binary, not UTF-8 text", "save it as UTF-8", "invalid-utf8")
    text = head.removeprefix(BOM).decode("utf-8", "replace")
    if not text.strip():
        return None
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return Kind("csv", packed, delimiter=_delimiter(text, "\t" if name.endswith(".tsv") else ","))
    return _json_kind(text, packed, name)


def _json_kind(text: str, packed: bool, name: str) -> Kind:
    first = text.lstrip()[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name.endswith(".parquet"):
        raise UnreadableFile("it is not a Parquet file (they begin with PAR1)", "make or copy the file again")
    if first == "[":
        in_lines = len(lines) > 1 and lines[1].startswith("{") and not lines[1].endswith(",")
        if name.endswith((".jsonl", ".ndjson")) and in_lines and not lines[0].endswith((",", "[")):
            return Kind("jsonl", packed)
        return Kind("json", packed)
    if first == "{":
        wrapped = _WRAPPED.match(text)
        if wrapped:
            return Kind("json", packed, start=len(text[: wrapped.end()].encode()))
        whole = lines[0] == "{" or "\r{" in text.replace("\r\n", "\n")
        if not whole and not name.endswith((".jsonl", ".ndjson")) and not _is_json(lines[0]):
            whole = len(lines) > 1 and not lines[1].startswith("{")
        return Kind("json" if whole else "jsonl", packed)
    if name.endswith((".json", ".jsonl", ".ndjson")):
        return Kind("jsonl", packed)
    if len(lines) > 1 and any(mark in lines[0] for mark in ",;\t"):
        return Kind("csv", packed, delimiter=_delimiter(text, ","))
    raise UnreadableFile(
        "it is neither JSON Lines, JSON, CSV nor Parquet",
        "write one JSON object on each line and call it .jsonl",
    )


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _delimiter(text: str, usual: str) -> str:
    """The sign between the columns: what Excel's `sep=` line says, else the commonest in the header."""
    first = text.splitlines()[0] if text else ""
    if first.lower().startswith("sep=") and len(first) == 5:
        return first[4]
    bare = re.sub(r'"[^"]*"', "", first)
    best = max((usual, ",", ";", "\t", "|"), key=lambda mark: bare.count(mark))
    return best if bare.count(best) else usual
