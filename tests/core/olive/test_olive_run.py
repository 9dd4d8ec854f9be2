"""Olive workflows: honest failures, bars as progress, no telemetry."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from core.errors import Cancelled, MachineError, StageError
from core.events import RecordingReporter
from core.tqdm_progress import current_report, phase_of, reporting
from tests.tiny_models import make_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("model") / "m")


def run_pass(model: Path, work: Path, report: RecordingReporter | None = None, **options: Any) -> Any:
    from core.olive.run import run_workflow, workflow

    return run_workflow(
        workflow(model, {"q": {"type": "rtn", "group_size": 32, **options}}),
        work=work,
        report=report or RecordingReporter(),
        failure="Quantizing failed.",
    )


def test_bars_become_progress_and_nothing_is_drawn_or_left_behind(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = RecordingReporter()
    run_pass(model, tmp_path / "first")  # libraries set some when they are imported
    environment = dict(os.environ)
    made = run_pass(model, tmp_path / "work", report)
    assert dict(os.environ) == environment
    assert (made.model_path / "config.json").is_file()
    # Written once: Olive's cache is gone, and nothing of the output is shared with the model that it was made from.
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["output", "tmp"]
    assert {path.stat().st_nlink for path in (*made.model_path.iterdir(), *model.iterdir())} == {1}
    phases = {e["phase"]: (e["done"], e["total"]) for e in report.events if e["type"] == "progress"}
    assert phases["Loading the model"][0] == phases["Loading the model"][1] > 10
    assert phases["Packing the weights"] == (14, 14)
    assert phases["Writing the weights"] == (1, 1)
    out, err = capfd.readouterr()
    assert "it/s" not in out + err
    assert "%|" not in out + err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "work"]  # no .olive-cache
    assert not Path(tempfile.gettempdir()).is_relative_to(tmp_path), (
        "temporary files go where they did before"
    )


def test_olives_output_is_linked_not_written_twice(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked: list[str] = []
    link = os.link

    def noted(source: Path, target: str) -> None:
        link(source, target)
        linked.append(source.name)

    monkeypatch.setattr(os, "link", noted)
    whole = run_pass(model, tmp_path / "linked").model_path
    assert "model.safetensors" in linked
    assert not any(Path(name).is_symlink() for name in whole.iterdir())

    def refused(source: Any, target: Any) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refused)
    copied = run_pass(model, tmp_path / "copied").model_path
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, copied)]
    assert weights[0] == weights[1]


def test_olives_metrics_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.olive.run import _without_metrics

    monkeypatch.delitem(sys.modules, "torchmetrics", raising=False)
    with _without_metrics():
        torchmetrics: Any = importlib.import_module("torchmetrics")
        assert isinstance(torchmetrics.text.perplexity.Perplexity, type)
    assert "torchmetrics" not in sys.modules  # whoever wants it gets the real one


def test_olives_telemetry_has_no_sender(model: Path, tmp_path: Path) -> None:
    run_pass(model, tmp_path / "work")
    from olive.telemetry.telemetry import Telemetry

    assert os.environ["OLIVE_DISABLE_TELEMETRY"] == "1"
    assert Telemetry()._logger is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"group_size": 48}, "must be divisible by group_size 48"),  # raised in the pass
        ({"type": "AutoClip", "group_size": 0}, "group_size must be -1 or greater than 0"),  # logged only
        ({"type": "gptq"}, "wikitext"),  # logged, then returned as if all were well
    ],
)
def test_a_failure_gives_olives_own_reason(
    options: dict[str, Any], reason: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="Quantizing failed") as caught:
        run_pass(model, tmp_path / "work", **options)
    assert reason in caught.value.detail
    assert "\n" not in caught.value.detail
    assert "Traceback" not in caught.value.detail


def test_our_own_errors_pass_through_olive(model: Path, tmp_path: Path) -> None:
    class Stops(RecordingReporter):
        def check_cancelled(self) -> None:
            if any(event.get("phase") == "Packing the weights" for event in self.events):
                raise Cancelled

    told = io.StringIO()
    printing = logging.StreamHandler(told)
    logging.getLogger("olive").addHandler(printing)
    try:
        with pytest.raises(Cancelled):
            run_pass(model, tmp_path / "work", Stops())
    finally:
        logging.getLogger("olive").removeHandler(printing)
    assert "Running pass" in told.getvalue()
    assert "Traceback" not in told.getvalue(), "a stop is no failure"
    assert "No output model" not in told.getvalue(), "nor does anything lack after it"


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (MemoryError("no more"), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (OSError(28, "No space left on device"), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
    ],
)
def test_a_machine_that_is_too_small_is_told_apart(
    error: Exception, title: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from olive.passes.pytorch import rtn

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(rtn, "finalize", fail)
    with pytest.raises(MachineError, match=title):
        run_pass(model, tmp_path / "work")


def test_lines_that_are_printed_can_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    from core.olive.run import _tee

    heard: list[str] = []
    with _tee(heard.append):
        print("Reading layer 0\nReading", end=" ")
        print("layer 1")
    assert heard == ["Reading layer 0", "Reading layer 1"]
    assert "Reading layer 1" in capsys.readouterr().out


def test_a_bar_reports_its_phase_from_any_thread_and_stops_when_asked() -> None:
    from tqdm import tqdm
    from tqdm.auto import tqdm as auto

    report = RecordingReporter()
    with reporting(report, {r"Odd": "Even", r"Hidden": ""}):
        assert current_report() is report
        thread = threading.Thread(target=lambda: list(auto(range(3), desc="Odd things")))
        thread.start()
        thread.join()
        list(tqdm(range(3), desc="Hidden"))
        seen = [(e["phase"], e["done"], e["total"]) for e in report.events]
        assert seen[0] == ("Even", 0, 3)
        assert seen[-1] == ("Even", 3, 3)
        report.cancelled = True
        with pytest.raises(Cancelled):
            list(tqdm(range(3)))
    assert current_report() is not report
    assert len(list(tqdm(range(3), disable=True))) == 3


def test_a_bar_of_an_earlier_phase_says_nothing_in_a_later_one() -> None:
    from tqdm.std import tqdm

    first, second = RecordingReporter(), RecordingReporter()
    with reporting(first):
        broken_off = tqdm(total=3, desc="Downloading model.safetensors")
        broken_off.update(1)
    with reporting(second):
        broken_off.close()  # as the garbage collector does it, at any later time

    assert first.events
    assert second.events == []


def test_phases_are_named_in_words() -> None:
    assert phase_of("Saving model.layers.0.weight (f32, [64])") == "Writing the ONNX weights"
    assert phase_of("Something new: ") == "Something new"
    assert phase_of("") == "Working"
