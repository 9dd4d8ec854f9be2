"""The process behind :class:`core.data.pages.RowPager` for forms that need parsing.

A question is one line of JSON on standard input: `{"rows": [start, count]}`, `{"near": [start, count]}`,
`{"index": seconds}` or `{}`; the answer one line on standard output, always with
`count`, `exact` and `progress`. It ends with its standard input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from core.data.files import data_files
from core.data.paged_files import Pages
from core.data.types import Problem, Row


def _as_json(row: Row) -> dict[str, Any]:
    return {
        "file": row.file,
        "line": row.line,
        "fields": row.fields,
        "problem": _problem(row.problem),
        "held_out": row.held_out,
        "note": _problem(row.note),
        "number": row.number,
    }


def _problem(problem: Problem | None) -> list[str] | None:
    return [problem.kind, problem.message, problem.fix] if problem else None


def answer(pages: Pages, question: dict[str, Any]) -> dict[str, Any]:
    """The answer to one question."""
    rows = None
    if "rows" in question:
        start, count = question["rows"]
        rows = [_as_json(row) for row in pages.rows(start, count)]
    sure = True
    if "near" in question:
        found, sure = pages.near(*question["near"])
        rows = [_as_json(row) for row in found]
    if "index" in question:
        pages.index_for(question["index"])
    result: dict[str, Any] = {"count": pages.estimate(), "exact": pages.exact, "progress": pages.progress()}
    if rows is not None:
        result["rows"], result["sure"] = rows, sure
    return result


def main() -> None:
    """Serve the file named on the command line."""
    pages = Pages(data_files(Path(sys.argv[1])))
    for line in sys.stdin:
        try:
            reply = answer(pages, json.loads(line))
        except (OSError, ValueError, MemoryError) as error:  # pyarrow's errors are among these
            reply = {"error": str(error) or type(error).__name__}
        # Lone surrogates cannot come here (rows with them are problems), odd types become text.
        sys.stdout.write(json.dumps(reply, default=str) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
