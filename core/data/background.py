"""The survey in a process of its own, for a screen that must stay quick and light."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from core.data.clean import Cleaned
from core.data.types import Finding
from core.errors import LabError, RequestError, text_of
from core.events import TimeLeft
from core.language import told
from core.process import Child, Message, Request, serve
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
    """A running survey of a lab's data, by the `lab.toml` that lies there now.

    Raises:
        MachineError: the process cannot be started.
    """

    def __init__(self, lab_root: Path) -> None:
        self._left = TimeLeft()
        self._state = SurveyState("running")
        self._child = Child("core.data.background", str(lab_root), what=told("The check of the rows"))
        self._call = self._child.start({"what": "survey"}, self._hear)

    def _hear(self, event: Message) -> None:
        phase, done, total = text_of(event, "phase"), event["done"], event["total"]
        self._state = SurveyState("running", phase, done, total, self._left.update(phase, done, total))

    def poll(self) -> SurveyState:
        """The present state; cheap, for a timer."""
        if self._state.state == "running" and self._call.future.done():
            try:
                self._state = SurveyState("done", report=self._call.result())
            except LabError as error:
                state = "cancelled" if error.exit_status == 130 else "failed"
                self._state = SurveyState(state, error=error)
        return self._state

    def findings(self, start: int = 0, count: int | None = None) -> list[Finding]:
        """The findings of a survey that is done, from number `start`.

        Raises:
            LabError: the process is gone.
        """
        found = self._child.ask({"what": "findings", "start": start, "count": count})["findings"]
        return [Finding.of_row(each) for each in found]

    def write_clean(self, out: Path, keep: Collection[str] = ()) -> Cleaned:
        """As :func:`core.data.clean.write_clean`, by the findings of a survey that is done.

        Raises:
            LabError: it cannot be written, or the process is gone.
        """
        done = self._child.ask({"what": "clean", "out": str(out), "keep": sorted(keep)})
        return Cleaned(Path(done["path"]), Path(done["left_out_path"]), done["kept"], done["left_out"])

    def cancel(self) -> None:
        """Ask it to stop; `poll` tells when it has."""
        self._call.cancel()

    def close(self) -> None:
        """End it if it runs, and forget its findings."""
        self._child.close(0)


def main(root: Path) -> None:
    """Survey a lab when asked to, and give the findings page by page until nobody asks any more."""
    from core.data.clean import write_clean
    from core.data.survey import DataReport, summary

    report: DataReport | None = None

    def answer(request: Request) -> Message:
        nonlocal report
        ask = request.ask
        if ask["what"] == "survey":
            report = summary(root, read_recipe(root / "lab.toml"), request.reporter())
            return report.as_dict()
        if report is None:
            raise RequestError(told("The rows have not been checked."), code="data.check")
        if ask["what"] == "clean":
            done = write_clean(report, Path(ask["out"]), keep=ask["keep"])
            return {
                name: str(value) if isinstance(value, Path) else value for name, value in asdict(done).items()
            }
        start, count = ask["start"], ask["count"]
        page = islice(report.findings, start, None if count is None else start + count)
        return {"findings": [each.as_row() for each in page]}

    serve(answer, grace_s=0)


if __name__ == "__main__":
    import sys

    main(Path(sys.argv[1]))
