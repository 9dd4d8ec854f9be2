"""Any page of a data file of any size, for a screen.

JSON Lines are indexed and read in the calling process: counting line ends goes at about a gigabyte a
second and holds nothing up. The other forms need parsing (and Parquet needs pyarrow, which the user
interface's process must not load), so a small process of its own serves their pages.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.data.files import DataFile, UnreadableFile, data_files, kind_of
from core.data.paged_files import Pages
from core.data.types import Problem, Row
from core.errors import RequestError

PAGE = 200
_SLICE = 0.05


class RowPager:
    """The rows of a file or folder by number, from 0.

    Opening takes milliseconds at any size. `rows` may be called from any thread, also while `index`
    runs in another. Use it as a context manager, or close it.

    Raises:
        RequestError: there is no such file, or a folder without data files.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise RequestError("The data file does not exist.", f"{path}", "Set data.file in lab.toml.")
        files = data_files(path)
        self._lock = threading.Lock()
        self._closed = False
        self._server: _Server | None = None
        self._pages: Pages | None = None
        try:
            if all(_is_lines(file) for file in files):
                self._pages = Pages(files)
            else:
                self._server = _Server(path)
        except OSError as error:
            raise RequestError(
                "The data file cannot be read.", f"{path}: {error.strerror or error}."
            ) from None

    def __enter__(self) -> RowPager:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def rows(self, start: int, count: int = PAGE) -> list[Row]:
        """At most `count` rows from number `start`; fewer at the end. A broken row has a `problem`.

        Where the index is not there yet, it is made up to `start` first: about a second a gigabyte of
        JSON Lines, longer for other forms.

        Raises:
            RequestError: the file cannot be read any more.
        """
        start, count = max(0, start), max(0, count)
        with self._lock:
            if self._pages is not None:
                return self._pages.rows(start, count)
            assert self._server is not None
            answer = self._server.ask({"rows": [start, count]})
        return [_row(each) for each in answer["rows"]]

    def rows_near(self, start: int, count: int = PAGE) -> tuple[list[Row], bool]:
        """As `rows`, but never waiting for the index: what a screen shows while one jumps about.

        True: these are the rows. False: the index is not there yet; these are rows from about that
        place with `line` 0 (plain JSON Lines), or none at all (other forms). Ask again later.
        """
        start, count = max(0, start), max(0, count)
        with self._lock:
            if self._pages is not None:
                return self._pages.near(start, count)
            assert self._server is not None
            answer = self._server.ask({"near": [start, count]})
        return [_row(each) for each in answer["rows"]], bool(answer["sure"])

    def count_estimate(self) -> tuple[int, bool]:
        """How many rows there are, and whether that is exact or estimated from the indexed part."""
        with self._lock:
            if self._pages is not None:
                return self._pages.estimate(), self._pages.exact
            assert self._server is not None
            answer = self._server.ask({})
        return int(answer["count"]), bool(answer["exact"])

    def index(
        self,
        progress: Callable[[int, int], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> int:
        """Index the whole file, for a thread in the background; returns the rows indexed.

        Args:
            progress: called some twenty times a second with bytes done and bytes in all.
            stop: asked as often; indexing ends when it says true, or when the pager is closed.
        """
        while True:
            with self._lock:
                if self._closed:
                    return 0
                if self._pages is not None:
                    over = self._pages.index_for(_SLICE)
                    (done, total), count = self._pages.progress(), self._pages.estimate()
                else:
                    assert self._server is not None
                    answer = self._server.ask({"index": _SLICE})
                    over, count, (done, total) = answer["exact"], answer["count"], answer["progress"]
            if progress is not None:
                progress(done, total)
            if over or (stop is not None and stop()):
                return int(count)

    def close(self) -> None:
        """Close the file; ends the process that served it, if there is one."""
        with self._lock:
            self._closed = True
            if self._pages is not None:
                self._pages.close()
            if self._server is not None:
                self._server.close()


def _is_lines(file: DataFile) -> bool:
    try:
        kind = kind_of(file)
    except UnreadableFile:
        return True  # a single row that says why needs no process
    return kind is None or kind.form == "jsonl"


def _row(data: dict[str, Any]) -> Row:
    problem, note = (Problem(*each) if each else None for each in (data["problem"], data["note"]))
    return Row(data["file"], data["line"], data["fields"], problem, data["held_out"], note, data["number"])


class _Server:
    """The process that serves pages; started with the first question."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "core.data.page_server", str(self._path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            answer = json.loads(line)
        except (OSError, ValueError):
            raise RequestError(
                "The data file cannot be read.", f"{self._path}: the process that reads it has ended."
            ) from None
        if "error" in answer:
            raise RequestError("The data file cannot be read.", f"{self._path}: {answer['error']}.")
        return dict(answer)

    def close(self) -> None:
        if self._process is None:
            return
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        with suppress(OSError):
            self._process.stdout.close()  # type: ignore[union-attr]
        self._process.kill()
        self._process.wait()
