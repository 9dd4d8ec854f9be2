"""Which files hold the records, what they are, and their bytes."""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from core.data.json_layout import HELD_OUT, Layout, Part, layout, parts
from core.data.streams import Stream
from core.data.types import Noted, Problem, Row, UnreadableFile
from core.errors import RequestError
from core.files import read_json
from core.formats import listed
from core.language import told

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_METADATA = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "croissant.json",
    "config.json",
    "tokenizer_config.json",
)
"""Files that describe data (or a model) and are no records, as `datasets` and hubs write them."""
_NOT_READ = (".zst", ".zip", ".xz", ".bz2", ".7z", ".tar", ".tar.gz", ".tgz", ".xlsx", ".xls", ".db")
_TEXTS = (".txt", ".txt.gz")
_ABOUT = ("readme", "license", "licence", "notice", "citation", "requirements", "changelog", "copying")
"""Names that begin so are of texts about the data."""
_SHARD = re.compile(r"-\d{3,}-of-\d{3,}")
LEFT_OUT = ".left-out.jsonl"
HEAD = 1 << 16

_PACKED = {
    b"PK\x03\x04": told("a zip archive"),
    b"BZh": told("packed with bzip2"),
    b"\xfd7zXZ\x00": told("packed with xz"),
    b"\x28\xb5\x2f\xfd": told("packed with zstd"),
    b"7z\xbc\xaf": "a 7z archive",
    b"SQLite format 3": told("an SQLite database"),
    b"%PDF": told("a PDF document"),
    b"\xd0\xcf\x11\xe0": told("an old Office document"),
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file with records, or a list of records in one.

    Attributes:
        name: how findings call it.
        held_out: its name says test or validation.
        part: the list, where the file is a JSON object with lists of records.
        others: the names of further such lists, which are not read.
    """

    path: Path
    name: str
    held_out: bool = False
    part: Part | None = None
    others: tuple[str, ...] = ()

    def row(self, line: int, number: int, found: dict[str, Any] | Noted | Problem) -> Row:
        """What was read at a line as a row."""
        if isinstance(found, Problem):
            return Row(self.name, line, None, found, self.held_out, None, number)
        if isinstance(found, Noted):
            return Row(self.name, line, found.fields, None, self.held_out, found.note, number)
        return Row(self.name, line, found, None, self.held_out, None, number)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file is.

    Attributes:
        form: jsonl, json, csv, parquet or arrow.
        start, line: where the array begins that is read, and its line.
        wrapped: whether that array stands in an object.
        object: whether the file may be one JSON object.
        old_mac: its lines end in CR alone.
        spaced: there are spaces between a separator and the quote behind it.
    """

    form: str
    packed: bool = False
    start: int = 0
    line: int = 1
    wrapped: bool = False
    object: bool = False
    delimiter: str = ","
    old_mac: bool = False
    spaced: bool = False


def data_files(path: Path) -> list[DataFile]:
    """The files with records at a path: itself, or those below a folder, by name.

    In a folder, files (or folders) whose name says test, validation, dev or eval hold the held-out
    rows, as long as there are others to train on; so do lists of such names in a JSON file. Of a folder
    that `datasets` saved, the files are those that its `state.json` names.

    Raises:
        RequestError: a folder without such a file.
    """
    if not path.is_dir():
        return _parts(DataFile(path, path.name))
    found = []
    for each in sorted(path.rglob("*")):
        relative = each.relative_to(path)
        if (
            not each.is_file()
            or any(part.startswith(".") for part in relative.parts)
            or not _holds_rows(each)
        ):
            continue
        name = relative.as_posix()
        found += _parts(DataFile(each, name, bool(HELD_OUT.search(name.lower()))))
    if not found:
        raise RequestError(
            told("The data folder has no records."),
            told(
                "{path} has no file that ends in {names} (or one of these and .gz).",
                path=path,
                names=", ".join(SUFFIXES),
            ),
            listed(
                [
                    *(
                        told("With {name!r}: {fix}.", name=name, fix=fix)
                        for name, fix in list(passed_over(path).items())[:3]
                    ),
                    told("Put the records there, or set data.file to the right folder."),
                ],
                " ",
            ),
            code="data.no-rows",
        )
    if all(each.held_out for each in found):
        found = [DataFile(each.path, each.name, False, each.part, each.others) for each in found]
    return found


def passed_over(path: Path) -> dict[str, str]:
    """What in a folder seems to hold records and is not read, and what to do: `.jsonl.zst`, links to nothing."""
    found: dict[str, str] = {}
    for each in sorted(path.rglob("*")) if path.is_dir() else ():
        name = each.relative_to(path).as_posix()
        lower = each.name.lower()
        if lower.startswith("."):
            continue
        if each.is_symlink() and each.is_dir():
            found[name] = told("it is a link to a folder: put the folder itself there")
        elif each.is_symlink() and not each.exists():
            found[name] = told("it is a link to a file that is not there: fetch the file")
        elif lower.endswith(_NOT_READ) and each.is_file():
            found[name] = told("unpack or export it to JSON Lines, CSV or Parquet")
        elif lower.endswith(_TEXTS) and each.is_file() and not lower.startswith(_ABOUT):
            found[name] = told('it is plain text: write it as JSON Lines, {"text": "…"} on each line')
        elif lower.endswith(SUFFIXES) and each.is_file() and not each.stat().st_size:
            found[name] = told("it is empty: make or copy it again")
    return found


def sets_in(path: Path, files: Sequence[DataFile]) -> list[str]:
    """The sets of training records in a folder from a hub, by name, where there are several: configs, or splits.

    The shards of one split in one folder (`train-00000-of-00002.parquet`) are a set, and so is each of the
    folders that hold files of one name.
    """
    if not path.is_dir():
        return []
    names = [PurePosixPath(each.path.relative_to(path).as_posix()) for each in files if not each.held_out]
    shards = dict.fromkeys(
        _SHARD.sub("", each.as_posix()).rpartition(".")[0] for each in names if _SHARD.search(each.name)
    )
    folders = {each.name: [other.parent for other in names if other.name == each.name] for each in names}
    apart = [str(each) for same in folders.values() if len(set(same)) > 1 for each in same]
    for found in (list(shards), list(dict.fromkeys(apart)), _configs(path / "README.md")):
        if len(found) > 1:
            return found
    return []


def _configs(card: Path) -> list[str]:
    """The configs that a data set's card names."""
    try:
        _, head, *_ = card.read_text(encoding="utf-8")[:HEAD].split("---\n", 2)
    except (OSError, ValueError):
        return []
    return list(dict.fromkeys(re.findall(r"^\s*(?:- )?config_name:\s*(\S.*?)\s*$", head, re.MULTILINE)))


def _holds_rows(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(SUFFIXES) or name.endswith(LEFT_OUT) or name in _METADATA:
        return False
    if name.endswith(".arrow"):
        saved = _saved(path.parent)
        return path.name in saved if saved else not name.startswith("cache-")
    return True


def _saved(folder: Path) -> frozenset[str]:
    """The files that `datasets` says it saved in a folder; others there are its caches."""
    state = read_json(folder / "state.json")
    listed = state.get("_data_files") if isinstance(state, dict) else None
    names = [each.get("filename") for each in listed or () if isinstance(each, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def _parts(file: DataFile) -> list[DataFile]:
    """A file, or each list of records in it."""
    found = Layout()
    with suppress(OSError, UnreadableFile, EOFError, zlib.error):
        state = file.path.stat()
        found = _layout(file.path, state.st_mtime_ns, state.st_size)
    lists = list(parts(found))
    if len(lists) < 2:
        return [DataFile(file.path, file.name, file.held_out, part, found.others) for part, _ in lists] or [
            file
        ]
    return [
        DataFile(
            file.path,
            f"{file.name}[{part.key}]",
            file.held_out or held_out,
            part,
            found.others if number == 0 else (),
        )
        for number, (part, held_out) in enumerate(lists)
    ]


@lru_cache(maxsize=64)
def _layout(path: Path, _changed: int, _size: int) -> Layout:
    if path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".parquet", ".arrow", ".feather")):
        return Layout()
    kind = sniff(path)
    if kind is None or not kind.object:
        return Layout()
    # The rows before a place where a gzip file is damaged are read, and the damage is told there.
    with suppress(EOFError, zlib.error), Stream(path, packed=kind.packed, old_mac=kind.old_mac) as stream:
        # One line of JSON Lines may be a record with a list in it.
        return layout(stream, named_only=".json" not in path.suffixes)
    return Layout()


def kind_of(file: DataFile) -> Kind | None:
    """What a file is, and where in it the records begin; None where it is empty.

    Raises:
        UnreadableFile: it is no form of records that can be read.
        OSError: it cannot be opened.
    """
    kind = sniff(file.path)
    if kind is None or not kind.object:
        return kind
    if file.part is not None:
        return Kind("json", kind.packed, file.part.start, file.part.line, wrapped=True, old_mac=kind.old_mac)
    state = file.path.stat()
    columns = _layout(file.path, state.st_mtime_ns, state.st_size).columns
    if columns:
        few = ", ".join(map(repr, columns[:4])) + (", …" if len(columns) > 4 else "")
        raise UnreadableFile(
            told("it is one object of columns or of records by name ({few}), not a list of records", few=few),
            told('write it as [{"field": "text"}, …]; pandas does with to_json(orient="records")'),
        )
    return kind


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip, told by its first two bytes and not its name."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def sniff(path: Path) -> Kind | None:  # noqa: C901, PLR0912 - a branch for each sign of a format
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
            raise UnreadableFile(
                told("the gzip file is damaged"), told("make or copy the file again")
            ) from None
    if head.startswith(b"PAR1"):
        if packed:
            raise UnreadableFile(told("it is Parquet inside gzip"), told("unpack the file with gunzip"))
        return Kind("parquet")
    if head.startswith(b"ARROW1") or (head.startswith(b"\xff\xff\xff\xff") and path.suffix == ".arrow"):
        if packed:
            raise UnreadableFile(told("it is Arrow inside gzip"), told("unpack the file with gunzip"))
        return Kind("arrow")
    if head.startswith(b"PK\x03\x04") and path.suffix.lower() in (".xlsx", ".xlsm", ".ods"):
        raise UnreadableFile(
            told("it is a workbook of a spreadsheet, not records"), told("save the sheet as CSV (UTF-8)")
        )
    if head.startswith(b"version https://git-lfs"):
        raise UnreadableFile(
            told("it is a pointer of Git LFS, not the file itself"), told("fetch it with git lfs pull")
        )
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise UnreadableFile(told("it is a web page, not records"), told("download the file itself"))
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise UnreadableFile(
                told("it is {what}, not records", what=what),
                told("unpack or export it to JSON Lines, CSV or Parquet"),
            )
    if (
        head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        or head[:64].count(0) > len(head[:64]) // 4
    ):
        raise UnreadableFile(
            told("it is UTF-16 or binary, not UTF-8 text"), told("save it as UTF-8"), "invalid-utf8"
        )
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    if not text.strip():
        return None
    name = path.name.lower().removesuffix(".gz")
    old_mac = "\r" in text and "\n" not in text
    if name.endswith((".csv", ".tsv")):
        return _csv(text, packed, "\t" if name.endswith(".tsv") else ",", old_mac)
    return _json_kind(text, packed, name, old_mac, whole=len(head) < HEAD)


def _json_kind(text: str, packed: bool, name: str, old_mac: bool, *, whole: bool) -> Kind:
    """`whole`: the text is all of the file."""
    first = text.lstrip()[0]
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    in_lines = name.endswith((".jsonl", ".ndjson"))
    if name.endswith((".parquet", ".arrow", ".feather")):
        what = (
            told("it is not a Parquet file (they begin with PAR1)")
            if name.endswith(".parquet")
            else told("it is not a Arrow file")
        )
        raise UnreadableFile(what, told("make or copy the file again"))
    if first == "[":
        many = len(lines) > 1 and lines[1].startswith("{") and not lines[1].endswith(",")
        if in_lines and many and not lines[0].endswith((",", "[")):
            return Kind("jsonl", packed, old_mac=old_mac)
        return Kind("json", packed, old_mac=old_mac)
    if first == "{":
        if len(lines) == 1 and (not whole or _is_json(lines[0])):
            return Kind("jsonl", packed, object=True, old_mac=old_mac)
        spread = not _is_json(lines[0]) and _goes_on(lines, in_lines)
        return Kind("json" if spread else "jsonl", packed, object=spread, old_mac=old_mac)
    if name.endswith((".json", ".jsonl", ".ndjson")):
        return Kind("jsonl", packed, old_mac=old_mac)
    if len(lines) > 1 and any(mark in lines[0] for mark in ",;\t"):
        return _csv(text, packed, ",", old_mac)
    raise UnreadableFile(
        told("it is neither JSON Lines, JSON, CSV, Parquet nor Arrow"),
        told("write one JSON object on each line and call it .jsonl"),
    )


def _goes_on(lines: list[str], in_lines: bool) -> bool:
    """Whether an object goes on behind the first line, which is none for itself; else that line is broken."""
    if lines[0][-1] in "[{":
        return True
    if len(lines) < 2 or in_lines:
        return False
    return not lines[1].startswith("{") or (lines[0][-1] in ",:" and not _is_json(lines[1]))


def _csv(text: str, packed: bool, usual: str, old_mac: bool) -> Kind:
    delimiter = _delimiter(text, usual)
    spaced = re.compile(rf"(?:^|{re.escape(delimiter)})[ ]+\Z", re.MULTILINE)
    quoted = re.finditer(r'"(?:[^"]|"")*"', text)
    odd = any(spaced.search(text[max(0, each.start() - 20) : each.start()]) for each in quoted)
    return Kind("csv", packed, delimiter=delimiter, old_mac=old_mac, spaced=odd)


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
