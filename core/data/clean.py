"""Writes a data file without its bad rows, and beside it what was left out and why."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from core.data.files import LEFT_OUT
from core.data.reader import RowReader
from core.data.types import Finding
from core.errors import Do, RequestError
from core.events import Reporter
from core.files import explained, half_made
from core.language import told

if TYPE_CHECKING:
    from core.data.survey import DataReport

CLEANING = "writing the clean file"


@dataclass(frozen=True)
class Cleaned:
    """What was written: two files, and how many rows each holds."""

    path: Path
    left_out_path: Path
    kept: int
    left_out: int


def clean_path(root: Path, data: Path) -> Path:
    """Where a lab keeps the clean copy of its data: a file in its folder that is not there yet."""
    name = data.name.split(".")[0] or "data"
    tried = (root / f"{name}.clean{f'-{number}' if number > 1 else ''}.jsonl" for number in count(1))
    return next(path for path in tried if not os.path.lexists(path))


def write_clean(
    report: DataReport, out: Path, *, keep: Collection[str] = (), progress: Reporter | None = None
) -> Cleaned:
    """Write the rows without findings to `out` (JSON Lines), the others to `out` with `.left-out.jsonl`.

    The files appear whole, or not at all. Of duplicates the first is kept. Each line that is left out
    has `file`, `line`, `why` (kinds and messages) and, where it could be read, `row`.

    Args:
        keep: kinds of findings that are no reason to leave a row out.

    Raises:
        RequestError: `out` is the data itself, a folder, or has a name of another form than JSON Lines; or
            no row would be left.
        MachineError: it cannot be written.
    """
    progress = progress or Reporter()
    _refuse(report, out)
    bad: dict[tuple[str, int], list[Finding]] = {}
    for finding in report.findings:
        if finding.kind not in keep and finding.row:
            bad.setdefault((finding.file, finding.row), []).append(finding)
    beside = out.with_name(out.name + LEFT_OUT)
    kept = left = 0
    with explained(out), ExitStack() as undo:
        out.parent.mkdir(parents=True, exist_ok=True)
        good_file, good_name = _open(out, undo)
        left_file, left_name = _open(beside, undo)
        with good_file, left_file:
            reader = RowReader(report.path)
            for number, row in enumerate(reader):
                if number % 1024 == 0:
                    progress.check_cancelled()
                    progress.progress(CLEANING, reader.done_bytes, reader.total_bytes)
                why = bad.get((row.file, row.number), [])
                if row.fields is not None and not why:
                    good_file.write(json.dumps(row.fields, ensure_ascii=False, default=str) + "\n")
                    kept += 1
                    continue
                left += 1
                entry: dict[str, Any] = {
                    "file": row.file,
                    "line": row.line,
                    "why": [_why(each) for each in why],
                }
                if row.fields is not None:
                    entry["row"] = row.fields
                left_file.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")
            if not kept:
                raise RequestError(
                    told("The clean file would have no row."),
                    told("All {left:,} rows have findings.", left=left),
                    told(
                        "Mend what {command} lists, or keep some kinds: {command2}",
                        command=Do.of("data", "DIR"),
                        command2=Do.of("data", "DIR", "--clean", "OUT.jsonl", "--keep", "KIND"),
                    ),
                    code="data.clean",
                )
            for stream in (good_file, left_file):
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(left_name, beside)
        os.replace(good_name, out)
    progress.artifact(out, "clean data")
    progress.artifact(beside, "rows left out")
    return Cleaned(out, beside, kept, left)


def _why(finding: Finding) -> str:
    return f"{finding.kind}: {finding.message}"


def _refuse(report: DataReport, out: Path) -> None:
    detail = ""
    if out.is_dir():
        detail = told("{out} is a folder.", out=out)
    elif out.exists() and report.path.exists() and out.samefile(report.path):
        detail = told("{out} is the data file itself, which is never changed.", out=out)
    elif report.path.is_dir() and out.resolve().is_relative_to(report.path.resolve()):
        detail = told("{out} lies in the data folder, and would be read as data the next time.", out=out)
    elif out.suffix.lower() not in (".jsonl", ".ndjson", ".json", ""):
        detail = told("{out} would hold JSON Lines, whatever the data was.", out=out)
    if detail:
        raise RequestError(
            told("The clean file cannot be written there."),
            detail,
            told("Name another file, such as clean.jsonl."),
            code="data.clean",
        )


def _open(path: Path, undo: ExitStack) -> tuple[IO[str], str]:
    handle, name = half_made(path)
    undo.callback(_remove, str(name))
    return os.fdopen(handle, "w", encoding="utf-8"), str(name)


def _remove(name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name)
