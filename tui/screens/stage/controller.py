"""What a stage's screen shows and does, without the screen: from the lab, the form and what the user wants to see."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual.content import Content

from core.assessments import Assessment
from core.errors import has_help, said, text_of
from core.files import newest
from core.language import _, shown
from core.stages import STAGES, Stage, result_lines
from tui.actions import advice_of, in_words
from tui.figures import rough_duration
from tui.labels import columns, headline, label, measured, obstacle
from tui.screens.stage.texts import StageTexts, goes_on
from tui.steps import Step, step_named, steps

if TYPE_CHECKING:
    from core.jobs import Job
    from tui.session import Session
    from tui.snapshot import JobView, Snapshot


@dataclass(frozen=True)
class StageState:
    """All that a stage's screen shows at one moment.

    Attributes:
        job: the newest job of the stage.
        settings: whether the form stands in place of the run.
        log: whether the log fills the screen.
        assessment: the result in one sentence; an empty one while there is none.
        headline, progress, numbers: what is said of the job; nothing where that is empty.
        error: what went wrong. What was stopped on purpose is no error.
        sizes: bytes, drawn as bars.
        last_step: the right edge of the curve of the loss.
        stale: why the result is older than what it was made from; empty where it is not.
        note: what there is to say of the settings.
        blocked: whether the note says what keeps the stage from running.
        goal: where Next leads: the step whose result is missing, or the one after this.
        run, next: the words of these buttons; empty where they are not shown.
        switch: the words of the button between settings and run.
        can_run: whether the run button can be pressed.
        focus: what has the focus when nothing was chosen: ``next``, ``run``, ``log``, ``settings-or-job``, or
            ``helps``, the first of the buttons that an error brings.
    """

    job: JobView | None
    settings: bool
    log: bool
    assessment: Assessment
    headline: Content | str
    progress: Content | str
    numbers: Content | str
    error: Mapping[str, Any] | None
    sizes: tuple[tuple[str, float], ...]
    last_step: float | None
    stale: str
    note: str
    blocked: bool
    goal: Step | None
    run: str
    next: str
    switch: str
    can_run: bool
    focus: str

    @property
    def active(self) -> bool:
        """Whether a job of the stage runs."""
        return self.job is not None and self.job.active

    @property
    def outcome(self) -> str:
        """How the job came out: ``alive``, ``good``, ``bad``; empty where it is none of these."""
        if self.active:
            return "alive"
        if self.error is not None:
            return "bad"
        return "good" if self.job is not None and self.job.state == "succeeded" else ""


class StageController:
    """One stage of one lab.

    Attributes:
        stage: what it is about.
        texts: what is said of this stage alone.
        settings_wanted: whether the user wants to see the settings; None: whatever fits.
        log_large: whether the user wants the log large.
        busy: whether a job is being started.
        takes: how many seconds a run will take; None where that is not known.
        where: the compute that was chosen to run on, empty for this machine; None: where the newest job ran.
    """

    def __init__(self, stage: Stage, session: Session, texts: StageTexts) -> None:
        self.stage, self.session, self.texts = stage, session, texts
        self.step = step_named(stage.name)
        self.settings_wanted: bool | None = None
        self.log_large = False
        self.busy = False
        self.takes: float | None = None
        self.where: str | None = None
        self._seen_job = ""

    def compute(self, job: JobView | None) -> str:
        """The compute that the next run goes to; empty for this machine."""
        if self.where is not None or job is None:
            return self.where or ""
        asked = (job.spec.get("options") or {}).get("on")
        return str(asked.get("compute") or "") if isinstance(asked, dict) else ""

    def new_job(self, snapshot: Snapshot) -> JobView | None:
        """The stage's newest job where it was not there before: it is shown, whatever was shown till now."""
        job = snapshot.jobs.get(self.stage.name)
        if job is None or job.id == self._seen_job:
            return None
        self._seen_job, self.settings_wanted = job.id, None
        return job

    def state(
        self,
        snapshot: Snapshot,
        typed: Mapping[str, Any] | None,
        settled: Mapping[str, Any],
        width: int = 74,
    ) -> StageState:
        """What to show.

        Args:
            typed: the form's values; None while one is impossible.
            settled: what those of them that are "auto" come to, as far as that is known.
            width: cells that a line of figures has.
        """
        job = snapshot.jobs.get(self.stage.name)
        active = job is not None and job.active
        missing, broken = self.step.missing(snapshot), self.session.broken
        changed = self.changed(job, typed)
        settings = (job is None) if self.settings_wanted is None else self.settings_wanted
        goal = missing or next(iter(steps()[self.step.number :]), None)
        done = job is not None and job.state == "succeeded"
        following = ""
        if goal is not None and goal is missing and not active:
            following = _("Go to {number} {title}", number=goal.number, title=goal.title)
        elif goal is not None and done and missing is None:
            following = _("Next: {title}", title=goal.title)
        begins = _("Looking first whether it can run …") if self.busy else ""
        if begins:
            note = begins if settings else ""
        elif broken is not None:
            note = _(
                "lab.toml cannot be used: {title} {detail} {advice}",
                title=broken.title,
                detail=broken.detail,
                advice=in_words(broken.advice),
            )
        else:
            note = obstacle(self.stage.name, missing, snapshot.active) or self._advice(
                job, changed, typed, settled, snapshot
            )
        again = job is None or not job.hopeless or bool(changed) or self._touched(job)
        can_run = again and not (self.busy or active or missing is not None)
        helps = (
            job is not None and job.state in ("failed", "crashed") and has_help(advice_of(job.error or {}))
        )
        focus = "run" if can_run else "settings-or-job" if settings or not again else "log"
        return StageState(
            job=job,
            settings=settings,
            log=self.log_large and job is not None,
            assessment=Assessment() if self.busy else self._assessment(job),
            headline=begins or (headline(job, time.time(), bool(changed)) if job else ""),
            progress=self.texts.progress(job) if job and (active or job.state == "cancelled") else "",
            numbers=self._numbers(job, width),
            error=job.error if job and job.state in ("failed", "crashed") else None,
            sizes=self._sizes(job),
            last_step=_last_step(job),
            stale="" if active else self._stale(snapshot),
            note=note,
            blocked=broken is not None or missing is not None,
            goal=goal,
            run="" if active or not again else self._run(job, can_run, settings),
            next=following,
            switch="" if job is None else _("Last run") if settings else _("Settings"),
            can_run=can_run,
            focus="next" if following else "helps" if helps and not settings else focus,
        )

    def _touched(self, job: JobView) -> bool:
        """Whether a file that the stage starts from has changed since the job ended."""
        from core.stale import inputs

        return job.ended is None or newest(inputs(self.session.folder, self.session.recipe())) > job.ended

    def _stale(self, snapshot: Snapshot) -> str:
        """That the result is stale, why, and which step is to be run first."""
        # What leaves nothing here is no better than what it starts from.
        source = (
            self.stage.needs
            if self.stage.makes is None and self.stage.needs in snapshot.stale
            else self.stage.name
        )
        if source not in snapshot.stale:
            return ""
        why = snapshot.stale[source]
        if source != self.stage.name:
            what = _(
                "The result of step {number} is stale: {why}.", number=step_named(source).number, why=why
            )
        elif self.stage.makes is not None:
            what = _("This result is stale: {why}.", why=why)
        else:
            what = _("This {name} is stale: {why}.", name=self.stage.name, why=why)
        first = next(name for name in snapshot.stale if STAGES[name].usual)
        if first == self.stage.name:
            return _("{what} Run it again.", what=what)
        return _("{what} Run step {number} again first.", what=what, number=step_named(first).number)

    def _advice(
        self,
        job: JobView | None,
        changed: list[str],
        typed: Mapping[str, Any] | None,
        settled: Mapping[str, Any],
        snapshot: Snapshot,
    ) -> str:
        if job is not None and job.state == "succeeded" and changed and self.stage.name not in snapshot.stale:
            return _(
                "Not as {id} ran: {changed}. Run again to have it so.", id=job.id, changed=", ".join(changed)
            )
        advice = "" if typed is None else self.texts.advice({**typed, **settled}, snapshot)
        compute = self.compute(job)
        if not compute:
            return advice
        return _("Runs on {compute} of Azure ML. {advice}", compute=compute, advice=advice).rstrip()

    def _run(self, job: JobView | None, can_run: bool, settings: bool) -> str:
        """The run button, with the time that the run will take; of what is left of one, nobody has told."""
        word = self.texts.run(self.step, job)
        if compute := self.compute(job):
            return (
                word if settings else _("{action} on {compute}", action=word, compute=compute)
            )  # above the settings the note says it
        if self.takes is None or not can_run or (job is not None and goes_on(job)):
            return word
        return _("{action}, about {time}", action=word, time=rough_duration(self.takes))

    def _assessment(self, job: JobView | None) -> Assessment:
        done = job is not None and job.state == "succeeded"
        return self.stage.assessment((job.result if job else None) or {}) if done else Assessment()

    def _numbers(self, job: JobView | None, width: int) -> Content | str:
        """The figures that matter most; all of them are copied and stand in report.md."""
        if job is None:
            return ""
        if job.state == "succeeded" and job.result:
            main = columns(result_lines(self.stage.name, job.result, main=True), width)
            return Content("\n").join([main, *self.texts.more_of(job.result)])
        return measured(job, self.stage.metrics) if job.active else ""

    def _sizes(self, job: JobView | None) -> tuple[tuple[str, float], ...]:
        result = (job.result if job else None) or {}
        return tuple((_(word), float(result[key])) for key, word in self.stage.sizes if result.get(key))

    def changed(self, job: JobView | None, typed: Mapping[str, Any] | None) -> list[str]:
        """The settings of this stage that are not what the job ran with, by their labels."""
        spec = (job.spec.get("recipe") if job else None) or {}
        parts = ((name.split("."), value) for name, value in (typed or {}).items())
        return [
            label(key) for (section, key), value in parts if spec.get(section, {}).get(key, value) != value
        ]

    def would_replace(self, typed: Mapping[str, Any]) -> str:
        """What a run with these settings would replace, as a path in the lab; empty for nothing."""
        if self.stage.makes is None:
            return ""
        lab = self.session.folder
        adapter = str(typed.get("finetune.adapter", self.session.recipe().finetune.adapter))
        folder = self.stage.makes.folder(lab, adapter)
        return str(folder.relative_to(lab.root)) if (folder / self.stage.makes.proof).is_file() else ""

    def start(self, snapshot: Snapshot, typed: Mapping[str, Any], *, checked: bool = True) -> Job:
        """Save the settings and start the job. It takes a while: for a thread.

        Args:
            checked: look first whether this machine can do it.

        Raises:
            LabError: a setting is wrong, this machine cannot do it, or another job runs.
        """
        from core.check import require
        from core.remote.asked import On

        job = snapshot.jobs.get(self.stage.name)
        # The same settings would give the same result at once; "Run again" on a finished step means to do it anew.
        # What leaves nothing here asks for itself what is to be done.
        again = job is not None and job.state == "succeeded" and not self.changed(job, typed)
        self.session.save(dict(typed))
        lab = self.session.lab()
        force = again and self.stage.makes is not None
        compute = self.compute(job)
        if compute:
            if checked:
                require(lab, [self.stage.name], elsewhere=True)
            there = On(compute, (self.stage.name,)).option()
            return lab.start(self.stage.name, force=force, options=there)
        if checked:
            require(lab, [self.stage.name])
        return lab.start(self.stage.name, force=force)

    def stop(self, job: str) -> None:
        """Ask the job to stop. It takes a while: for a thread. Raises LabError where it has ended by itself."""
        from core.lab import Lab

        Lab.at(self.session.root).job(job).cancel()  # whatever stands in the recipe by now

    def copied(self, job: JobView) -> str:
        """The result or the error, as text."""
        if job.error:  # with commands: it is read elsewhere
            words = [shown(text_of(job.error, key)) for key in ("title", "detail")]
            return "\n".join([*words, said(advice_of(job.error))])
        lines = [f"{name}: {value}" for name, value in result_lines(self.stage.name, job.result or {})]
        return "\n".join([*filter(None, [self._assessment(job).text]), *lines])


def _last_step(job: JobView | None) -> float | None:
    if job is None:
        return None
    last = (job.result or {}).get("steps") or (job.total if job.phase == "training" else None)
    return float(last) if isinstance(last, int | float) else None
