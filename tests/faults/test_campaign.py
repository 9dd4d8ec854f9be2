"""Twenty faults in a quick stage; ``make soak`` injects hundreds, in the real stages too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import FAULTS, Undisturbed, light_lab, many_at_once, run_one, undisturbed


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """A lab, and what an undisturbed run makes of it."""
    place = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLIVEPRESS_PLUGIN", "tests.fake_stages.plugin")
        yield undisturbed(light_lab(place), "quantize", place / "finished")


@pytest.mark.parametrize("seed", range(len(FAULTS)))
def test_a_fault_is_survived(seed: int, plain: Undisturbed, tmp_path: Path) -> None:
    if run_one(seed, plain, tmp_path, list(FAULTS)) is None:
        pytest.skip("only root can mount a small disk")


def test_labs_at_once_do_not_harm_each_other(plain: Undisturbed, tmp_path: Path) -> None:
    many_at_once(plain, tmp_path, 3)
