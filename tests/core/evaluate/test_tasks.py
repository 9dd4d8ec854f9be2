"""lm-eval's tasks on the lab's variants: without it a refusal; with it (where it is installed) both of its backends."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import MachineError, RequestError
from core.evaluate import tasks
from core.evaluate.plan import variants
from core.events import RecordingReporter
from core.folder import LabFolder
from tests.core.optimize.labs import add_adapter, quantized_lab, run_stage


def test_names_are_taken_apart() -> None:
    assert tasks.names(" hellaswag, arc_easy,,hellaswag ") == ["hellaswag", "arc_easy"]


def test_without_lm_eval_it_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "package_version", lambda name: "")
    with pytest.raises(MachineError, match="not installed") as told:
        tasks.require()
    assert "olivepress[evaluate]" in told.value.hint


def test_the_numbers_of_its_results() -> None:
    given = {
        "t": {
            "alias": "t",
            "acc,none": 0.5,
            "acc_stderr,none": "N/A",
            "em,strict": 1,
            "em_stderr,strict": 0.1,
        }
    }
    assert tasks._metrics(given) == {"t": {"acc": [0.5, None], "em (strict)": [1.0, 0.1]}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LabFolder:
    pytest.importorskip("lm_eval")
    lab = quantized_lab(tmp_path_factory.mktemp("tasks"), "llama")
    add_adapter(lab, "travel", rank=4, seed=1)
    run_stage(lab)
    return lab


def task_folder(root: Path) -> Path:
    """A task of ten questions with two answers each, as lm-eval's guide says."""
    questions = [
        {"country": country, "choices": [" the sea", " the old town"], "answer": number % 2}
        for number, country in enumerate(
            ("Spain", "Italy", "Peru", "Iran", "Japan", "Cuba", "Chile", "Mali", "Oman", "Fiji")
        )
    ]
    (root / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    (root / "places.yaml").write_text(
        "task: places\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {root / 'questions.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "In {{country}}, see"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list: [{metric: acc}]\n"
    )
    return root


def run_on(lab: LabFolder, folder: Path, name: str, *, task: str = "places") -> dict[str, Any]:
    variant = next(each for each in variants(lab, "travel", None) if each.name == name)
    ask = {
        "onnx": variant.onnx,
        "folder": str(variant.folder),
        "adapter": str(variant.adapter or ""),
        "trust": False,
        "free": 1 << 40,
        "tasks": [task],
        "task_folder": str(folder),
        "limit": 0,
    }
    request: Any = SimpleNamespace(ask=ask, reporter=RecordingReporter)
    return tasks.handle(request)


def test_both_backends_say_the_same_of_the_same_model(made: LabFolder, tmp_path: Path) -> None:
    folder = task_folder(tmp_path)
    found = {
        name: run_on(made, folder, name)["results"]["places"]["acc"]
        for name in ("quantized", "tuned", "onnx", "onnx_tuned")
    }
    assert found["onnx"] == pytest.approx(found["quantized"])
    assert found["onnx_tuned"] == pytest.approx(found["tuned"])
    assert all(0 <= value <= 1 and error > 0 for value, error in found.values())


def test_a_task_that_is_not_there_is_refused_by_name(made: LabFolder, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no task 'nowhere'"):
        run_on(made, task_folder(tmp_path), "onnx", task="nowhere")
