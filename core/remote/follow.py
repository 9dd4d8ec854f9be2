"""Following a job there until one of its stages is done: its state, and what it tells in its log.

The command of the job prints the events of its stages, one JSON object a line; what else is in the log is for people.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.azure.errors import redact
from core.azure.retry import Stop
from core.azure.runs import MAIN_LOG, RunDetails, Runs, RunState
from core.azure.storage import Container
from core.errors import Do, LabError, StageError, error_from, text_of, with_other_helps
from core.events import Reporter
from core.language import changed, told
from core.remote.asked import SentJob
from core.remote.fetch import Made, look
from core.text import clean

PASSING = ("azure.connection", "azure.busy", "azure.fault", "azure.answer", "azure.certificate")
"""Codes of failures that say nothing of the job: it goes on there, and it is asked after again."""
SOONEST, LATEST = 0.3, 8.0
"""Seconds between two looks: soon after something came, later while nothing does."""
LONGEST_LINE = 1 << 20
_WORDS = {
    "notstarted": told("waiting to be taken up"),
    "queued": told("waiting for a machine"),
    "scheduled": told("waiting for its time"),
    "paused": told("paused"),
    "provisioning": told("a machine is being got ready"),
    "preparing": told("the environment is being built"),
    "starting": told("starting there"),
    "running": told("running there"),
    "finalizing": told("ending there"),
    "cancelrequested": told("being cancelled there"),
}


class Follower:
    """Looks after one job for one stage."""

    def __init__(
        self,
        runs: Runs,
        container: Container,
        sent: SentJob,
        stage: str,
        stop: Stop,
        report: Reporter,
        *,
        lab: Path,
    ) -> None:
        """Look after a job.

        Args:
            lab: the lab's folder here, which advice is about.
        """
        self._runs, self._container, self._sent, self._stage = runs, container, sent, stage
        self._stop, self._report, self._lab = stop, report, lab
        self._at = 0
        self._rest = b""
        self._status = ""
        self._current = ""
        self._error: LabError | None = None
        self._over = False
        self._lost = False
        self._moved = False
        self._shown = 0.0

    def follow(self) -> Made:
        """Wait until the stage is done there; what it has made.

        Raises:
            StageError: it failed, the job did, or somebody else ended it.
            LabError: the stage's own error as it was told there; or the sign-in does not hold any more.
            Cancelled: somebody asked to stop here.
        """
        pause = SOONEST
        while True:
            self._moved = False
            try:
                made = self._look()
            except LabError as error:
                if error.code not in PASSING:
                    raise self._still_there(error) from None
                self._say_lost(error)
                made = None
            if made is not None:
                return made
            pause = SOONEST if self._moved else min(LATEST, pause * 1.5)
            self._stop.wait(pause)

    def _look(self) -> Made | None:
        """What there is to see now: the stage's result, or None while it is not there."""
        state = self._runs.state(self._sent.name)
        if state is None:
            raise StageError(
                told("The job is gone from Azure."),
                told(
                    "{name} in workspace {workspace}: there is no such job any more.",
                    name=self._sent.name,
                    workspace=self._sent.workspace,
                ),
                told("Run it again: a new one is sent, and goes on from what this one has kept."),
                code="remote.gone",
            )
        self._back()
        self._tell(state)
        details = self._runs.details(self._sent.name) if not state.waits else RunDetails({})
        while address := details.logs.get(MAIN_LOG):
            if not self._read(address):
                break
        if self._over or state.ended:
            made = look(self._container, self._sent.out, self._stage, self._lab)
            if made is not None:
                return made
        if self._error is not None:
            raise self._error
        if state.ended:
            raise self._ended(state, details)
        return None

    def _tell(self, state: RunState) -> None:
        status = state.status.lower()
        now = time.monotonic()
        if status != self._status:
            if self._status == "running" and status in ("queued", "preparing", "starting", "notstarted"):
                self._report.log(
                    "The machine was taken back. The job waits for another, and goes on from its last checkpoint.",
                    "warning",
                )
            self._report.log(f"{self._sent.name}: {state.status.lower()}.")
            self._status, self._moved = status, True
        elif status == "running" or now - self._shown < LATEST:
            return
        self._shown = now
        if not state.ended and not (status == "running" and self._current):
            words = _WORDS.get(status, status)
            if status in ("queued", "notstarted"):
                words = told("{words} of {compute}", words=words, compute=self._sent.compute)
            self._report.progress(words, 0, None)

    def _read(self, address: str) -> bool:
        """Hand on what the log has that is new; whether there may be more at once."""
        data, size = self._runs.log(address, self._at)
        if size < self._at:  # begun anew, on another machine
            self._at, self._rest = 0, b""
            return True
        if not data:
            return False
        self._at += len(data)
        self._moved = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b""
        for line in lines:
            self._hear(line.decode("utf-8", "replace").strip())
        return size > self._at

    def _hear(self, line: str) -> None:
        event: Any = None
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            if line and self._current in ("", self._stage):
                self._report.log(redact(clean(line)))
            return
        job = str(event.get("job") or "")
        stage = job.rsplit("-", 1)[0]
        if event["type"] == "error" and not job:  # the command itself refused
            self._fail(event.get("error"), event.get("exit_status"))
            return
        if event["type"] == "state" and event.get("state") == "running":
            self._current = stage
        if stage == self._stage:
            self._hear_own(event)

    def _hear_own(self, event: dict[str, Any]) -> None:
        kind, report = event["type"], self._report
        act: Callable[[], None] | None = None
        if kind == "progress" and isinstance(event.get("done"), int | float):
            total = event.get("total")
            done, known = event["done"], total if isinstance(total, int | float) else None
            act = lambda: report.progress(changed(text_of(event, "phase"), clean), done, known)  # noqa: E731
        elif kind == "metric" and isinstance(event.get("value"), int | float):
            step = event.get("step")
            value, at = float(event["value"]), int(step) if isinstance(step, int | float) else None
            act = lambda: report.metric(clean(str(event.get("name", ""))), value, at)  # noqa: E731
        elif kind == "log":
            level = event.get("level")
            level = level if level in ("debug", "info", "warning", "error") else "info"
            act = lambda: report.log(redact(clean(str(event.get("text", "")))), level)  # noqa: E731
        elif kind == "state":
            state = event.get("state")
            self._over = state == "succeeded"
            if state in ("failed", "crashed"):
                self._fail(event.get("error"), event.get("exit_status"))
        if act is not None:
            act()

    def _fail(self, noted: Any, status: Any) -> None:
        """The stage's own error; as one of this machine it would be wrong, so it is said where it was."""
        error = error_from(noted if isinstance(noted, dict) else {}, status if isinstance(status, int) else 3)
        # What is advised for the lab there is meant for the one here.
        error.hint = with_other_helps(
            error.advice,
            lambda part: replace(part, lab=str(self._lab)) if isinstance(part, Do) and part.lab else part,
        )
        error.detail = redact(
            told(
                "On {compute} ({name}): {detail}",
                compute=self._sent.compute,
                name=self._sent.name,
                detail=error.detail,
            )
            if error.detail
            else told("On {compute} ({name}):", compute=self._sent.compute, name=self._sent.name)
        )
        self._error = error

    def _ended(self, state: RunState, details: RunDetails) -> LabError:
        """Why a job is over without the stage's result."""
        where = told("{name} on {compute}", name=self._sent.name, compute=self._sent.compute)
        if state.status.lower() == "canceled":
            return StageError(
                told("Somebody ended the job in Azure."),
                told("{where} was cancelled there, and not from here.", where=where),
                told("Run it again: a new job goes on from the last checkpoint that this one kept."),
                code="remote.cancelled",
            )
        if state.status.lower() == "completed":
            return StageError(
                told("The job ended without a result."),
                told("{where} has completed, and left nothing of {stage}.", where=where, stage=self._stage),
                told("Run it again: {run}", run=Do.of("run", self._lab, self._stage, "--force")),
                code="remote.result",
            )
        text = redact(clean(" ".join(details.message.split())))[:600]
        low = f"{details.code} {text}".lower()
        said = told("{where}: {said}", where=where, said=f"{details.code or state.status} {text}".strip())
        if "image" in low and ("build" in low or "pull" in low):
            return StageError(
                told("The job's environment could not be built."),
                said,
                told("Look at the log 20_image_build_log.txt on the job's page: {page}", page=self._sent.page)
                if self._sent.page
                else told("Look at the log 20_image_build_log.txt on the job's page."),
                code="remote.environment",
            )
        if "quota" in low:
            return StageError(
                told("The quota does not allow the job."),
                said,
                told("Ask for more quota in the Azure portal, or choose another compute."),
                code="azure.quota",
            )
        if "timeout" in low or "exceeded" in low:
            return StageError(
                told("The job took longer than it was allowed to."),
                said,
                told("Run it again with more: --hours N. It goes on from the last checkpoint."),
                code="remote.hours",
            )
        return StageError(
            told("The job failed in Azure."),
            said,
            told("Look at its logs on its page: {page}", page=self._sent.page)
            if self._sent.page
            else told("Look at its logs."),
            code="remote.failed",
        )

    def _still_there(self, error: LabError) -> LabError:
        """An error of ours, with the word that the job is not hurt by it."""
        if error is self._error or error.code.startswith("remote."):
            return error
        if error.code in ("azure.expired", "azure.sign-in", "azure.cli", "azure.keep", "azure.principal"):
            more = told(
                "{name} goes on in Azure; once you are signed in, run it again to follow it.",
                name=self._sent.name,
            )
            return type(error)(
                error.title,
                told("{detail} {more}", detail=error.detail, more=more) if error.detail else more,
                error.advice,
                code=error.code,
            )
        return error

    def _say_lost(self, error: LabError) -> None:
        if not self._lost:
            self._report.log(
                f"{error.title} {self._sent.name} goes on in Azure; it is asked after again.", "warning"
            )
        self._lost = True
        self._report.progress(told("no line to Azure; the job goes on there"), 0, None)

    def _back(self) -> None:
        if self._lost:
            self._report.log("The line to Azure is back.")
            self._lost, self._moved, self._shown = False, True, 0.0
