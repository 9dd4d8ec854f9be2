"""The survey in a process of its own, for a screen that must stay quick and light.

The process writes into a temporary folder: `events.jsonl` as jobs do, `report.json` and
`findings.jsonl` at the end. It stops when its `cancel` file appears, and when its starter is gone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from core.data.types import Finding
from core.errors import LabError, StageError, error_from
from core.events import JobReporter, read_events
from core.files import read_if_whole, write_json
from core.recipe import read_recipe


@dataclass(frozen=True)
class SurveyState:
    """How far a survey has come.

    Attributes:
        state: `running`, `done`, `failed` or `cancelled`.
        phase, done, total, eta_s: the latest progress.
        report: the object of `olivepress data --json` without its findings, when it is done.
        error: what went wrong, when it failed.
    """

    state: str
    phase: str = ""
    done: float = 0.0
    total: float | None = None
    eta_s: float | None = None
    report: dict[str, Any] | None = None
    error: LabError | None = None


class BackgroundSurvey:
    """A running survey of a lab's data, by the `lab.toml` that lies there now."""

    def __init__(self, lab_root: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="olivepress-data-"))
        self._offset = 0
        self._last = SurveyState("running")
        with (self._folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "core.data.background", str(lab_root), str(self._folder)],
                stdin=subprocess.PIPE,  # its end tells the process that nobody waits any more
                stdout=log,
                stderr=log,
            )

    def poll(self) -> SurveyState:
        """The present state; cheap, for a timer."""
        if self._last.state != "running":
            return self._last
        over = self._process.poll() is not None
        events, self._offset = read_events(self._folder / "events.jsonl", self._offset)
        for event in events:
            if event["type"] == "progress":
                self._last = SurveyState(
                    "running", event["phase"], event["done"], event["total"], event["eta_s"]
                )
        if over:
            self._last = self._end()
        return self._last

    def _end(self) -> SurveyState:
        result = read_if_whole(self._folder / "report.json")
        if isinstance(result, dict) and "error" in result:
            error = error_from(result["error"], result["exit_status"])
            return SurveyState("cancelled" if error.exit_status == 130 else "failed", error=error)
        if isinstance(result, dict):
            return SurveyState("done", report=result)
        tail = (self._folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
        return SurveyState("failed", error=StageError("Looking at the data failed.", " ".join(tail)))

    def findings(self, start: int = 0, count: int | None = None) -> Iterator[Finding]:
        """The findings of a survey that is done, from number `start`."""
        names = ("file", "line", "kind", "message", "fix", "row")
        with (self._folder / "findings.jsonl").open(encoding="utf-8") as stream:
            for line in islice(stream, start, None if count is None else start + count):
                data = json.loads(line)
                yield Finding(*(data[name] for name in names))

    def cancel(self) -> None:
        """Ask it to stop; `poll` tells when it has."""
        with suppress(OSError):
            (self._folder / "cancel").touch()

    def close(self) -> None:
        """End it if it runs, and remove its files."""
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _leave_with_starter(folder: Path) -> None:
    """End this process when standard input does, which is when the starter is gone; nobody needs its files then."""
    import threading

    def wait() -> None:
        with suppress(OSError):
            os.read(0, 1)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Survey the lab named first, into the folder named second."""
    from core.data.survey import summary

    root, folder = Path(arguments[0]), Path(arguments[1])
    _leave_with_starter(folder)
    try:
        report = summary(root, read_recipe(root / "lab.toml"), JobReporter(folder, "data"))
    except LabError as error:
        write_json(folder / "report.json", {"error": error.as_dict(), "exit_status": error.exit_status})
        return error.exit_status
    with (folder / "findings.jsonl").open("w", encoding="utf-8") as stream:
        for finding in report.findings:
            stream.write(json.dumps(finding.as_dict()) + "\n")
    write_json(folder / "report.json", report.as_dict())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
