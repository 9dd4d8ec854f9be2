"""Running Olive workflows so that they tell what they do and fail when they have failed.

Olive logs most errors and returns as if all were well; here a run without an output model raises
the error that stopped it. Its telemetry stays off and its cache stays in the stage's work folder.

Imports olive, and with it torch: only for a job's process.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from core.errors import Cancelled, Hint, LabError, MachineError, StageError
from core.events import Reporter
from core.files import refusal
from core.hardware import gpu_fault, is_out_of_memory
from core.language import told
from core.olive.passes import package_config
from core.telemetry import switch_off
from core.tqdm_progress import current_report, reporting

__all__ = ["OliveResult", "current_report", "import_olive", "reason_of", "run_workflow", "workflow"]


@dataclass(frozen=True)
class OliveResult:
    """What a workflow made.

    Attributes:
        model_path: the model's folder or file.
        adapter_path: the adapter's folder, where a pass made one.
        attributes: the ``model_attributes`` that the passes left.
    """

    model_path: Path
    adapter_path: Path | None
    attributes: dict[str, Any]


def import_olive() -> None:
    """Import olive with its telemetry off, its metrics left out, and its models named without reading them.

    The environment variable alone still lets a first heartbeat into the queue, with an id of this machine
    that is kept in the user's cache: both sender and heartbeat are replaced by none.
    """
    switch_off()
    with _without_metrics():
        from olive.telemetry.telemetry import Telemetry

    Telemetry._create_logger = lambda self: None
    Telemetry._log_heartbeat = lambda self: None
    from olive.model.config.model_config import ModelConfig

    # A digest of all of the model's files otherwise, which takes seconds for large ones. It names a place in
    # the cache, and the cache of a run is new and goes with its work folder.
    ModelConfig.get_model_identifier = lambda self: str(self.config.get("model_path"))


class _Missing(type):
    """The type of what stands for all that torchmetrics has."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Metric(metaclass=_Missing):
    """In place of a class of torchmetrics."""


@contextmanager
def _without_metrics() -> Iterator[None]:
    """While entered, importing torchmetrics gives an empty shell.

    Olive has a table of its classes, which nothing here uses: no workflow of ours has one of Olive's evaluators. The
    package brings along matplotlib and torchvision where those are installed, which takes seconds.
    """
    name = "torchmetrics"
    if name in sys.modules:
        yield
        return
    shell: Any = ModuleType(name)
    shell.__getattr__ = partial(getattr, _Metric)
    sys.modules[name] = shell
    try:
        yield
    finally:
        del sys.modules[name]


def workflow(
    model: Path,
    passes: Mapping[str, Any],
    *,
    trust_remote_code: bool = False,
    device: str = "cpu",
    provider: str = "CPUExecutionProvider",
) -> dict[str, Any]:
    """A workflow on this machine: some passes, one after the other, on the Hugging Face model in a folder.

    Args:
        passes: by name; they may be those of :mod:`core.olive.passes` too.
        device, provider: what the result is for.
    """
    accelerator = {"device": device, "execution_providers": [provider]}
    load = {"load_kwargs": {"trust_remote_code": True}} if trust_remote_code else {}
    return {
        "input_model": {"type": "HfModel", "model_path": str(model), **load},
        "systems": {"local": {"type": "LocalSystem", "accelerators": [accelerator]}},
        "host": "local",
        "target": "local",
        "passes": dict(passes),
        "evaluate_input_model": False,
    }


def run_workflow(
    config: Mapping[str, Any],
    *,
    work: Path,
    report: Reporter,
    failure: str = told("The stage failed."),
    hint: Hint = "",
    phases: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> OliveResult:
    """Run an Olive workflow in this process.

    Args:
        config: as :func:`workflow` makes it.
        work: folder for the cache and for temporary files; the output lies in ``work/output``.
        failure: title of the error when a pass fails.
        hint: its hint, where Olive's own reason does not call for another.
        phases: names for progress bars, see :func:`core.tqdm_progress.reporting`.
        on_line: called with every line that goes to standard output (the model builder tells its progress
            so); the line is still written.

    Raises:
        StageError: a pass failed or refused its configuration; the detail is Olive's own reason.
        MachineError: not enough memory or disk.
        LabError: as a pass of ours raised it, Cancelled included.
    """
    work.mkdir(parents=True, exist_ok=True)
    import_olive()
    from olive.workflows import run

    whole = {
        "output_dir": str(work / "output"),
        "cache_dir": str(work / "olive-cache"),
        "log_severity_level": 1,
        **config,
    }
    scratch = work / "tmp"
    scratch.mkdir(exist_ok=True)
    with (
        _captured_log(report) as log,
        reporting(report, phases),
        _tee(on_line),
        _as_it_was(),
        _linked_within(work),
    ):
        report.check_cancelled()
        try:
            output = run(whole, package_config=package_config(), tempdir=str(scratch))
        except Exception as error:
            raise _failed(log.error or error, failure, hint, work) from error
        if log.error is not None and not output.has_output_model():
            raise _failed(log.error, failure, hint, work) from log.error
    if not output.has_output_model():
        raise StageError(
            failure, told("Olive says: {last_line}", last_line=log.last_line()), hint, code="olive.failed"
        )
    # Its files are links to the same bytes by now; ONNX Runtime does not read some that have more than one name.
    shutil.rmtree(work / "olive-cache", ignore_errors=True)
    best = output.get_best_candidate()
    options = best.model_config
    adapter = options.get("adapter_path")
    return OliveResult(
        Path(best.model_path), Path(adapter) if adapter else None, dict(options.get("model_attributes") or {})
    )


def reason_of(error: BaseException) -> BaseException:
    """The exception at the root: a LabError anywhere in the chain, else the last explicit cause."""
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        if isinstance(at, LabError):
            return at
        seen.append(at)
        at = at.__cause__ or (at.__context__ if isinstance(at.__context__, LabError) else None)
    return seen[-1]


def _failed(error: BaseException, title: str, hint: Hint, work: Path) -> LabError:
    root = reason_of(error)
    if isinstance(root, LabError):
        return root
    text = " ".join(str(root).split())
    if is_out_of_memory(root):
        return MachineError(
            told("There was not enough memory."),
            _short(text) or type(root).__name__,
            hint or told("Close what else uses the memory, or choose smaller numbers."),
            code="machine.memory",
        )
    if (fault := gpu_fault(root)) is not None:
        return fault
    # Libraries written in Rust, safetensors among them, say it so.
    number = re.search(r"\(os error (\d+)\)", text)
    if number and not isinstance(root, OSError):
        root = OSError(int(number[1]), os.strerror(int(number[1])))
    if isinstance(root, OSError) and (refused := refusal(root, work)):
        return refused
    return StageError(
        title,
        told("{kind}: {short}", kind=type(root).__name__, short=_short(text))
        if text
        else type(root).__name__,
        hint,
        code="olive.failed",
    )


def _short(text: str, longest: int = 600) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


_NOISE = (
    "No output model produced",
    "Run history",
    "run history:",  # the table of it, where tabulate is installed
    "Save footprint",
    "Pass ",
    "Please install tabulate",
    "Skipping evaluation",
    "Invalid config, pruned",
    "Running pass",
    "Flow [",
)
"""How the lines begin that the engine logs around a failure and that say nothing about it."""


class _LogCapture(logging.Handler):
    """Keeps the first error and the last lines that Olive logs, and passes warnings on."""

    def __init__(self, report: Reporter) -> None:
        super().__init__(logging.INFO)
        self.report = report
        self.error: BaseException | None = None
        self.lines: deque[str] = deque(maxlen=8)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.lines.append(text)
        if record.exc_info and record.exc_info[1] is not None:
            if self.error is None:
                self.error = record.exc_info[1]
        elif record.levelno >= logging.WARNING and not text.startswith(_NOISE):
            self.report.log(_short(" ".join(text.split())), "warning")

    def last_line(self) -> str:
        """The lines before the one that says that nothing was made."""
        words = [line for line in self.lines if not line.startswith(_NOISE)]
        return words[-1] if words else told("no output model was made")


@contextmanager
def _linked_within(work: Path) -> Iterator[None]:
    """Have Olive link what it has in its cache into its output, in place of writing gigabytes a second time."""
    from olive import resource_path

    def copied(source: Any, target: Any, **more: Any) -> Any:
        if (file := Path(source).resolve()).is_relative_to(own):
            with suppress(OSError):  # a file system without links
                os.link(file, target)
                return target
        return shutil.copy2(source, target, **more)

    own, copy_dir = work.resolve(), resource_path.copy_dir
    with patch.object(resource_path, "copy_dir", partial(copy_dir, copy_function=copied)):
        yield


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Take back what Olive sets for the whole process: its folders go with the work folder."""
    name = "OLIVE_CACHE_DIR"
    folder, variable = tempfile.tempdir, os.environ.get(name)
    try:
        yield
    finally:
        tempfile.tempdir = folder
        os.environ.pop(name, None)
        if variable is not None:
            os.environ[name] = variable


def _is_stop(error: BaseException | None) -> bool:
    return error is not None and isinstance(reason_of(error), Cancelled | KeyboardInterrupt)


@contextmanager
def _captured_log(report: Reporter) -> Iterator[_LogCapture]:
    capture = _LogCapture(report)
    logger = logging.getLogger("olive")
    printing = list(logger.handlers)

    def printed(record: logging.LogRecord) -> bool:
        """A stop that was asked for is no failure: it has no traceback, and nothing is missing after it."""
        if _is_stop(record.exc_info[1] if record.exc_info else None):
            return False
        return not (_is_stop(capture.error) and record.getMessage().startswith(_NOISE))

    for handler in printing:
        handler.addFilter(printed)
    logger.addHandler(capture)
    try:
        yield capture
    finally:
        for handler in printing:
            handler.removeFilter(printed)
        logger.removeHandler(capture)


class _Lines(io.TextIOBase):
    """Writes through to a stream and hands each whole line to a function."""

    def __init__(self, stream: Any, on_line: Callable[[str], None]) -> None:
        self._stream = stream
        self._on_line = on_line
        self._rest = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._on_line(line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def _tee(on_line: Callable[[str], None] | None) -> Iterator[None]:
    if on_line is None:
        yield
        return
    with redirect_stdout(_Lines(sys.stdout, on_line)):
        yield
