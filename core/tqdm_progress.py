"""Progress bars of other packages, turned into progress events.

Olive, transformers, datasets, huggingface_hub and onnx_ir all draw with tqdm. While
:func:`reporting` is active nothing is drawn; what a bar would show goes to the reporter, under a
phase named in words, and a bar that moves is also the place where a cancelled job stops.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from core.events import Reporter
from core.language import told

PHASES: Mapping[str, str] = {
    r"Loading weights|Loading checkpoint shards": told("Loading the model"),
    r"Preparing model": told("Preparing the model"),
    r"Processing layers|Quantizing modules": told("Rounding the layers"),
    r"Quantizing and packing": told("Packing the weights"),
    r"Replacing submodules": told("Preparing the model"),
    r"Writing model shards": told("Writing the weights"),
    r"Saving \S+ \(": told("Writing the ONNX weights"),
    r"Generating \w+ split": told("Reading the records"),
    r"Map|Filter|Tokeniz|Running tokenizer": told("Preparing the records"),
    r"Download|Fetching|model.*\.safetensors|.*\.(json|txt|model)\b": told("Downloading the model"),
}
"""How a bar's description begins, as a regular expression, and what the phase is called here."""

_current: Reporter = Reporter()


def current_report() -> Reporter:
    """The reporter of the stage that runs in this process; one that keeps nothing if there is none.

    For code that other packages call, such as a pass that Olive runs, which cannot be handed one.
    """
    return _current


def phase_of(description: str, phases: Mapping[str, str] | None = None) -> str:
    """The phase's name for a bar's description; ``phases`` are looked at first."""
    text = description.strip().rstrip(":. ")
    for known in (phases or {}), PHASES:
        for pattern, phase in known.items():
            if re.match(pattern, text):
                return phase
    return text or told("Working")


@contextmanager
def reporting(report: Reporter, phases: Mapping[str, str] | None = None) -> Iterator[None]:
    """Send every tqdm bar of this process to ``report`` and draw none.

    Args:
        phases: more of :data:`PHASES`, or others for the same bars. An empty name hides a bar.

    While it is active, :func:`current_report` gives ``report``. A bar that moves after the user asked
    to stop raises :class:`~core.errors.Cancelled` from its ``update``.
    """
    global _current  # noqa: PLW0603 - tqdm's classes are the process's too
    before = _current
    _current = report
    try:
        with _patched(report, lambda description: phase_of(description, phases)):
            yield
    finally:
        _current = before


class _Nowhere:
    """A stream that swallows what tqdm writes (line breaks when a bar ends)."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


@contextmanager
def _patched(  # noqa: C901 - the methods of one class that takes tqdm's place
    report: Reporter, name: Callable[[str], str]
) -> Iterator[None]:
    # The methods of the base class are replaced, since each package derives its own class from it.
    from tqdm.std import tqdm

    # ``__init__`` is a partialmethod there, so the originals are bound as descriptors.
    originals = {key: tqdm.__dict__[key] for key in ("__init__", "display", "update", "__iter__")}

    def original(self: Any, key: str) -> Callable[..., Any]:
        return originals[key].__get__(self, type(self))  # type: ignore[no-any-return]

    def init(self: Any, *args: Any, **options: Any) -> None:
        # Positions of tqdm.__init__: iterable, desc, total, leave, file, …
        if len(args) > 4:
            args = (*args[:4], _Nowhere(), *args[5:])
        else:
            options["file"] = _Nowhere()
        if options.get("disable") is None:
            options["disable"] = False
        options.setdefault("mininterval", 0.1)
        self._reports_to = report
        original(self, "__init__")(*args, **options)

    def display(self: Any, msg: str | None = None, pos: int | None = None) -> bool:
        # A bar that broke off in an earlier phase draws once more when the garbage collector closes it.
        if msg is None and getattr(self, "_reports_to", None) is report:
            phase = name(self.desc or "")
            # A bar sets ``disable`` when it ends; one of unknown length is then known to be full.
            total = self.n if self.disable and self.total is None else self.total
            if phase:
                report.progress(phase, self.n, total)
        return True

    def update(self: Any, n: float | None = 1) -> bool | None:
        report.check_cancelled()
        moved: bool | None = original(self, "update")(n)
        return moved

    def iterate(self: Any) -> Iterator[Any]:
        for item in original(self, "__iter__")():
            report.check_cancelled()
            yield item

    replacements = {"__init__": init, "display": display, "update": update, "__iter__": iterate}
    for key, value in replacements.items():
        setattr(tqdm, key, value)
    try:
        yield
    finally:
        for key, value in originals.items():
            setattr(tqdm, key, value)
