"""Is this machine able to run the lab, and what to do if not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.lab import Lab


def require(lab: Lab, stages: Sequence[str]) -> None:
    """Refuse to start stages that cannot succeed on this machine."""
