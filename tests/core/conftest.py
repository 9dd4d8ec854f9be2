"""What holds for all tests of the core."""

from __future__ import annotations

import dataclasses

import pytest

import core.check
from core.check.types import Probe


@pytest.fixture(autouse=True)
def _patient_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe may take as long as a busy machine needs: what is told of one that hangs has a test of its own."""
    quick = core.check.probes

    def probes(*, verify: bool = False) -> list[Probe]:
        return [dataclasses.replace(each, limit_s=max(60, each.limit_s)) for each in quick(verify=verify)]

    monkeypatch.setattr(core.check, "probes", probes)
