"""The headless core of OlivePress: every step of the lab as plain Python, with no terminal in it.

>>> from core import Lab
>>> lab = Lab.create("my-lab", model="rehearsal")  # doctest: +SKIP

Importing this package loads nothing heavy; the names below are loaded when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from core.version import __version__

if TYPE_CHECKING:
    from core.errors import Cancelled, LabError, MachineError, RequestError, StageError
    from core.jobs import Job
    from core.lab import Lab
    from core.recipe import Recipe

_HOMES = {
    "Cancelled": "core.errors",
    "Job": "core.jobs",
    "Lab": "core.lab",
    "LabError": "core.errors",
    "MachineError": "core.errors",
    "Recipe": "core.recipe",
    "RequestError": "core.errors",
    "StageError": "core.errors",
}

__all__ = [
    "Cancelled",
    "Job",
    "Lab",
    "LabError",
    "MachineError",
    "Recipe",
    "RequestError",
    "StageError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'core' has no attribute {name!r}")
