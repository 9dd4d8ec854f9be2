"""The curves of a training in an experiment tracker as well: MLflow, TensorBoard, Weights & Biases or Trackio.

The job's events are the curves that this program goes by, and a tracker gets the same numbers from them, in a thread
of its own: a training neither waits for one nor ends with it. Nothing goes to another machine unless the user's own
environment names one (``MLFLOW_TRACKING_URI``, ``WANDB_MODE=online``): all write below ``trackers/`` in the lab.
"""

from __future__ import annotations

import importlib
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from core.errors import MachineError, Use
from core.events import Reporter
from core.language import told
from core.text import first_line, without_logins

FOLDER = "trackers"
"""Below the lab, where trackers write."""

PATIENCE_S = 60.0
"""How long the end of a job waits for a tracker to take what is left."""

STOPPED_S = 5.0
"""The same for a job that was stopped, or failed."""

_TOGETHER = 200
"""Numbers that are handed over at once, at most."""

Point = tuple[str, int, float, float]
"""A number: its name, its step, its value, and when it was told, in seconds since 1970."""


class Run(Protocol):
    """A run in a tracker."""

    def log(self, points: list[Point]) -> None:
        """Take some numbers."""

    def end(self, *, failed: bool) -> None:
        """There are no more."""


@dataclass(frozen=True)
class About:
    """What a run is of.

    Attributes:
        project: the lab's name.
        name: the job's id.
        settings: the recipe, by ``section.key``.
        folder: where it may write.
    """

    project: str
    name: str
    settings: Mapping[str, str]
    folder: Path


@dataclass(frozen=True)
class Tracker:
    """One that can be used.

    Attributes:
        modules: what has to be there to import.
        load: what is imported before the run begins.
        start: begins a run.
        quiet: environment variables that are set where the user has not set them.
    """

    modules: tuple[str, ...]
    load: str
    start: Callable[[About], Run]
    quiet: Mapping[str, str]


class _MlflowRun:
    def __init__(self, about: About) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client = MlflowClient(
            os.environ.get("MLFLOW_TRACKING_URI") or _own_store(about.folder / "mlflow.db")
        )
        self._metric = Metric
        found = self._client.get_experiment_by_name(about.project)
        # Where nobody else decides, files would go into the folder that the job happens to work in.
        place = None if os.environ.get("MLFLOW_TRACKING_URI") else (about.folder / "mlflow").as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(about.project, place)
        self._id: str = self._client.create_run(experiment, run_name=about.name).info.run_id
        settings = [Param(key, value) for key, value in about.settings.items()]
        self._client.log_batch(self._id, params=settings)

    def log(self, points: list[Point]) -> None:
        metrics = [self._metric(name, value, round(1000 * at), step) for name, step, value, at in points]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, *, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


def _own_store(database: Path) -> str:
    """The lab's own MLflow store; made whole first, since MLflow cannot open one that a killed job has half made."""
    from mlflow import MlflowClient

    if not database.exists():
        half = database.with_suffix(".half")
        half.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{half}").search_experiments(max_results=1)
        half.replace(database)
    return f"sqlite:///{database}"


class _TensorboardRun:
    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(about.folder / "tensorboard" / about.name))
        table = "\n".join(f"| {key} | {value} |" for key, value in about.settings.items())
        self._writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{table}")

    def log(self, points: list[Point]) -> None:
        for name, step, value, at in points:
            self._writer.add_scalar(name, value, step, walltime=at)
        self._writer.flush()

    def end(self, *, failed: bool) -> None:
        self._writer.close()


class _WandbRun:
    def __init__(self, about: About) -> None:
        import wandb

        mode = "online" if os.environ.get("WANDB_MODE", "").lower() == "online" else "offline"
        about.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=about.project,
            name=about.name,
            config=dict(about.settings),
            dir=str(about.folder),
            mode=mode,
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True
            ),
        )
        # A run that goes on shows earlier steps again, and W&B's own count of steps only rises.
        self._run.define_metric("*", step_metric="step")

    def log(self, points: list[Point]) -> None:
        for name, step, value, _ in points:
            self._run.log({name: value, "step": step})

    def end(self, *, failed: bool) -> None:
        import wandb

        self._run.finish(exit_code=int(failed))
        # That alone returns before W&B's own process has written the end of the file.
        wandb.teardown(exit_code=int(failed))


class _TrackioRun:
    def __init__(self, about: About) -> None:
        import trackio

        self._run = trackio.init(
            about.project,
            name=about.name,
            config=dict(about.settings),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, points: list[Point]) -> None:
        for name, step, value, _ in points:
            self._run.log({name: value}, step=step)

    def end(self, *, failed: bool) -> None:
        self._run.finish()


TRACKERS: dict[str, Tracker] = {
    "mlflow": Tracker(
        ("mlflow", "sqlalchemy", "alembic"),
        "mlflow",
        _MlflowRun,
        {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"},
    ),
    "tensorboard": Tracker(("tensorboard",), "torch.utils.tensorboard", _TensorboardRun, {}),
    "wandb": Tracker(
        ("wandb",), "wandb", _WandbRun, {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    ),
    "trackio": Tracker(("trackio",), "trackio", _TrackioRun, {}),
}
"""Every tracker, by what ``finetune.track`` calls it; the extra of the same name brings its packages."""


def refuse_missing(name: str) -> None:
    """Refuse a tracker that is not installed; ``""`` is none.

    Raises:
        MachineError: it is not; the hint says what to install.
    """
    if not name:
        return
    absent = [module for module in TRACKERS[name].modules if find_spec(module) is None]
    if absent:
        raise MachineError(
            told("{name} is not installed.", name=name),
            told("finetune.track = {name!r}, and there is no package {absent}.", name=name, absent=absent[0]),
            told(
                'Install it with: pip install "olivepress[{name}]". Or do without: {track}.',
                name=name,
                track=Use("finetune.track", ""),
            ),
            code="tracker.missing",
        )


class _Feeder:
    """Hands numbers to a tracker in a thread of its own, until one thing goes wrong."""

    def __init__(self, start: Callable[[], Run], warn: Callable[[str], None]) -> None:
        self._start, self._warn = start, warn
        self._waiting: queue.SimpleQueue[Point | bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._feed, name="tracker", daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        self._waiting.put(point)

    def end(self, *, failed: bool, patience: float) -> None:
        """Wait until all is taken, but no longer than so many seconds."""
        self._waiting.put(failed)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._warn(f"it has not taken all numbers within {patience:.0f} s")

    def _feed(self) -> None:
        try:
            run = self._start()
            failed: bool | None = None
            while failed is None:
                points: list[Point] = []
                found: Point | bool | None = self._waiting.get()
                while found is not None:
                    if isinstance(found, bool):
                        failed = found
                        break
                    points.append(found)
                    found = None
                    with suppress(queue.Empty):
                        found = self._waiting.get_nowait() if len(points) < _TOGETHER else None
                if points:
                    run.log(points)
            run.end(failed=failed)
        except BaseException as error:  # SystemExit as well: a tracker ends no training
            self._warn(f"{type(error).__name__}: {first_line(error)}")


class _Tracked(Reporter):
    """Tells another reporter everything, and a tracker the numbers that have a step, each once."""

    def __init__(self, report: Reporter, feeder: _Feeder) -> None:
        self._report, self._feeder = report, feeder
        self._told: set[tuple[str, int]] = set()

    def progress(self, phase: str, done: float, total: float | None) -> None:
        self._report.progress(phase, done, total)

    def artifact(self, path: Path, what: str) -> None:
        self._report.artifact(path, what)

    def log(self, text: str, level: str = "info") -> None:
        self._report.log(text, level)

    def check_cancelled(self) -> None:
        self._report.check_cancelled()

    def stop_takes(self, seconds: float) -> None:
        self._report.stop_takes(seconds)

    def unbroken(self) -> AbstractContextManager[None]:
        return self._report.unbroken()

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self._report.metric(name, value, step)
        # A training that begins again within its job tells steps again.
        if step is not None and math.isfinite(value) and (name, step) not in self._told:
            self._told.add((name, step))
            self._feeder.put((name, step, value, time.time()))


@contextmanager
def tracking(
    name: str,
    root: Path,
    job: str,
    settings: Mapping[str, Any],
    report: Reporter,
    *,
    patience: float = PATIENCE_S,
) -> Iterator[Reporter]:
    """A reporter that a tracker listens to as well; the given one where there is none.

    Args:
        name: as ``finetune.track`` has it.
        root: the lab's folder.
        settings: what the run is of, by ``section.key``.

    Raises:
        MachineError: the tracker is not installed, or cannot be imported.
    """
    if not name:
        yield report
        return
    refuse_missing(name)
    tracker = TRACKERS[name]
    folder = root / FOLDER
    for key, value in {**tracker.quiet, "TRACKIO_DIR": str(folder / "trackio")}.items():
        os.environ.setdefault(key, value)
    try:
        importlib.import_module(
            tracker.load
        )  # here, since two threads may not load the same packages at once
    except Exception as error:
        raise MachineError(
            told("{name} cannot be loaded.", name=name),
            told(
                "finetune.track = {name!r}: {kind}: {error}",
                name=name,
                kind=type(error).__name__,
                error=first_line(error),
            ),
            told(
                'Install it anew with: pip install "olivepress[{name}]". Or do without: {track}',
                name=name,
                track=Use("finetune.track", ""),
            ),
            code="tracker.missing",
        ) from error
    warned = threading.Event()

    def warn(why: str) -> None:
        if not warned.is_set():
            warned.set()
            report.log(f"{name} does not follow any more: {_harmless(why)}. The training goes on.", "warning")

    shown = {key: _harmless(str(value))[:500] for key, value in settings.items()}
    folder.mkdir(exist_ok=True)
    about = About(root.resolve().name or "olivepress", job, shown, folder)
    feeder = _Feeder(lambda: tracker.start(about), warn)
    failed = True
    try:
        yield _Tracked(report, feeder)
        failed = False
    finally:
        # Who stops a job waits for no tracker.
        feeder.end(failed=failed, patience=min(patience, STOPPED_S) if failed else patience)


def _harmless(text: str) -> str:
    """Text without what could let somebody in."""
    text = without_logins(text)
    for name, value in os.environ.items():
        if len(value) >= 8 and any(word in name.upper() for word in ("KEY", "TOKEN", "PASSWORD", "SECRET")):
            text = text.replace(value, "***")
    return text
