"""Long texts: what is read, where it is compared, and that a graph which is wrong behind its window is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import StageError
from core.events import RecordingReporter
from core.model.folder import model_facts
from core.optimize import genai_builder, long_context
from core.optimize.long_context import Reading, places_in, verify_long_text
from core.optimize.session import OnnxSession
from tests.core.optimize.labs import quantized_lab, run_stage
from tests.tiny_models import make_tiny


@given(st.integers(1, 10_000), st.lists(st.integers(1, 9_000), max_size=3))
def test_places_lie_in_the_text_and_around_every_window(tokens: int, windows: list[int]) -> None:
    places = places_in(tokens, windows)
    assert places == sorted(set(places))
    assert places[-1] == tokens - 1
    assert places[0] >= 0
    for window in windows:
        assert window >= tokens or {window - 1, window} <= set(places)


def read(checkpoint: Path, work: Path, context: int = 512, exact: bool = True) -> Reading:
    genai_builder.build(
        checkpoint, work / "onnx", precision="fp32", provider="CPUExecutionProvider", options={}, work=work
    )
    return verify_long_text(
        OnnxSession(work / "onnx"),
        checkpoint,
        facts=model_facts(checkpoint),
        context=context,
        exact=exact,
        trust_remote_code=False,
        report=RecordingReporter(),
    )


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 64}),
        ("gemma2", {"sliding_window": 64}),
        ("gemma3", {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_right_graphs_are_read_to_the_end_of_the_context(
    arch: str, options: dict[str, Any], tmp_path: Path
) -> None:
    reading = read(make_tiny(arch, tmp_path / "model", **options), tmp_path)
    assert reading.tokens == reading.wanted == 512
    assert reading.window == options.get("sliding_window", 0)
    assert reading.apart < 1e-4
    assert ("behind the window of 64" in reading.told()) == bool(options)


def test_windows_on_the_wrong_layers_are_found_behind_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = genai_builder.as_builder_reads

    def wrong(config: Any) -> None:
        right(config)
        config.layer_types = config.layer_types[::-1]

    monkeypatch.setattr(genai_builder, "as_builder_reads", wrong)
    with pytest.raises(StageError) as caught:
        read(make_tiny("gemma2", tmp_path / "model", sliding_window=64), tmp_path)
    assert "At token 65, behind the window of 64 tokens" in caught.value.detail


def test_no_window_at_all_is_found_out_by_the_stage_and_nothing_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = genai_builder.as_builder_reads

    def wrong(config: Any) -> None:
        right(config)
        config.layer_types = None

    lab = quantized_lab(tmp_path, "mistral", sliding_window=256)
    monkeypatch.setattr(genai_builder, "as_builder_reads", wrong)
    with pytest.raises(StageError) as caught:
        run_stage(lab)
    assert "behind the window of 256 tokens" in caught.value.detail
    assert not lab.onnx_dir.exists()
    monkeypatch.undo()
    result, report = run_stage(lab)
    assert (result["verified_tokens"], result["window"]) == (512, 256)
    assert any("behind the window of 256" in event.get("text", "") for event in report.events)


def test_time_ends_the_reading_and_what_was_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_context, "BUDGET_S", 0.0)
    monkeypatch.setattr(long_context, "PIECE_BYTES", 4 * 384 * 40)
    checkpoint = make_tiny("mistral", tmp_path / "model", sliding_window=64)
    reading = read(checkpoint, tmp_path)
    assert (reading.tokens, reading.wanted) == (80, 512)  # until the window is behind it
    monkeypatch.setattr(long_context, "WINDOW_BUDGET_S", 0.0)
    reading = read(checkpoint, tmp_path / "again")
    assert reading.tokens == 40
    assert "was not reached" in reading.told()
