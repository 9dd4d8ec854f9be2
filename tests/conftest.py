"""Fixtures that every test may use: an isolated home, and the rehearsal lab, built once."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from core import language
from core.telemetry import switch_off
from tests.refusing import refuse

switch_off()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TZ", "UTC")
if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread each: two processes of two threads wait for one another on two cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job ignores interrupts and hands that on; tests of Ctrl-C need them heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every run, however slow the machine is; HYPOTHESIS_PROFILE=search looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("search", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's own home, caches or sign-ins."""
    home = tmp_path_factory.mktemp("home")
    saved = dict(os.environ)
    os.environ.update(
        HOME=str(home),
        XDG_CONFIG_HOME=str(home / ".config"),
        XDG_CACHE_HOME=str(home / ".cache"),
        XDG_STATE_HOME=str(home / ".state"),
        XDG_DATA_HOME=str(home / ".data"),
        HF_HOME=str(home / ".cache/huggingface"),
        OLIVEPRESS_GUIDE="off",
        OLIVEPRESS_WARM="0",  # loaded ahead takes seconds of a core: what does it has its own tests
        OLIVEPRESS_LANGUAGE="en",
    )
    os.environ.pop("NO_COLOR", None)
    yield home
    os.environ.clear()
    os.environ.update(saved)


@pytest.fixture(autouse=True)
def english_again() -> Iterator[None]:
    """No test leaves another language behind."""
    yield
    language.ask("")
    language.use("en")


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep in one process what must not be made twice, or not run beside its like (``make test`` uses two)."""
    for item in items:
        if "built_rehearsal_lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("rehearsal-lab"))
        elif item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.xdist_group("gpu"))


_imported = {"modules": 0}


def pytest_runtest_setup() -> None:
    """What is imported stays: it is taken out of the garbage collector's sight, for it is millions of objects.

    Olive and Textual collect garbage by hand, again and again, at half a second each.
    """
    if len(sys.modules) > _imported["modules"] + 100:
        _imported["modules"] = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def built_rehearsal_lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rehearsal lab after quantize, finetune and optimize, run once, with no network. Do not change it.

    OLIVEPRESS_TEST_LAB names a folder that keeps it between test runs; the stages' own fingerprints
    tell what has to be made again.
    """
    from core import Lab

    kept = os.environ.get("OLIVEPRESS_TEST_LAB")
    root = Path(kept) if kept else tmp_path_factory.mktemp("rehearsal") / "lab"
    lab = Lab.open(root) if (root / "lab.toml").exists() else Lab.create(root, model="rehearsal")
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, root.parent / "refusing")  # tests/end_to_end/test_no_network.py reads what was refused
        for stage in ("quantize", "finetune", "optimize"):
            lab.run(stage)
    return root


@pytest.fixture
def rehearsal_lab(built_rehearsal_lab: Path, tmp_path: Path) -> Path:
    """A copy of the built rehearsal lab that a test may change."""
    root = tmp_path / "rehearsal-lab"
    shutil.copytree(built_rehearsal_lab, root, copy_function=shutil.copy2)
    return root
