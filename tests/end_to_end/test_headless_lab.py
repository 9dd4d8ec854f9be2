"""The whole lab on the rehearsal model: what was made is good, said in numbers, and not made twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core import Lab, formats
from core.events import read_events
from core.files import folder_bytes
from tests.end_to_end.labs import ROOT, cli, half_made, lines_of, losses_of
from tests.end_to_end.labs import check_events as check_contract

STAGES = ("quantize", "finetune", "optimize")
ANSWER_KEYS = {
    *("answer", "adapter", "prompt_tokens", "new_tokens", "time_to_first_token_s", "tokens_per_s", "stop"),
}
STATUS_KEYS = {"id", "stage", "state", "started", "ended", "phase", "done", "total", "eta_s", "error"}
QUESTION = "What should I see in Chicago?"


@pytest.fixture(scope="module")
def lab(built_rehearsal_lab: Path) -> Lab:
    return Lab.open(built_rehearsal_lab)


def done(lab: Lab, stage: str) -> dict[str, object]:
    """``done.json`` of the job that made what is there (a later one may have found nothing to do)."""
    for job in reversed(lab.jobs()):
        found = json.loads((job.folder / "done.json").read_text(encoding="utf-8"))
        if job.stage == stage and found["state"] == "succeeded" and not found["reused"]:
            return dict(found)
    raise AssertionError(f"no {stage} has succeeded")


def result(lab: Lab, stage: str) -> dict[str, object]:
    found = done(lab, stage)["result"]
    assert isinstance(found, dict)
    return found


def number(numbers: dict[str, object], name: str) -> float:
    value = numbers[name]
    assert isinstance(value, int | float)
    return float(value)


def test_every_stage_has_succeeded_and_says_so_last(lab: Lab) -> None:
    for stage in STAGES:
        found = done(lab, stage)
        assert found["exit_status"] == 0
        assert found["error"] is None
        assert number(found, "seconds") > 0
        manifest = lab.manifest(stage)
        assert manifest is not None
        assert manifest["result"] == found["result"]
        assert manifest["fingerprint"]["stage"] == stage


def test_quantized_weights_are_small_and_still_the_model(lab: Lab) -> None:
    numbers = result(lab, "quantize")
    assert number(numbers, "bytes_after") < 0.5 * number(numbers, "bytes_before")
    assert number(numbers, "perplexity") < 1.2 * number(numbers, "perplexity_float")
    assert number(numbers, "same_likeliest_token") > 0.8
    weights = sum(path.stat().st_size for path in lab.folder.quantized_dir.glob("*.safetensors"))
    assert weights == pytest.approx(number(numbers, "bytes_after"), rel=0.02)


def test_tuning_lowers_the_loss_on_rows_it_never_saw(lab: Lab) -> None:
    numbers = result(lab, "finetune")
    assert number(numbers, "eval_loss_tuned") < 0.7 * number(numbers, "eval_loss_base")
    assert number(numbers, "loss_last") < 0.5 * number(numbers, "loss_first")
    assert numbers["resumed_from"] == 0
    assert number(numbers, "train_rows") + number(numbers, "eval_rows") >= 300
    assert number(numbers, "eval_rows") >= 30


def test_the_graph_answers_as_pytorch_and_has_learnt_the_training_answers(lab: Lab) -> None:
    numbers = result(lab, "optimize")
    assert numbers["verified"] is True
    agreement = numbers["agreement"]
    assert isinstance(agreement, dict)
    for who in ("base", "tuned"):
        assert agreement[who]["prompts"] >= 5
        assert agreement[who]["agreeing"] == agreement[who]["prompts"]
    assert numbers["training_prompts"] == 20
    assert number(numbers, "training_right_tuned") >= 15
    assert number(numbers, "training_right_base") <= 5
    for who in ("base", "tuned"):
        assert number(numbers, f"tokens_per_s_{who}") > 0
        assert number(numbers, f"time_to_first_token_s_{who}") > 0


def test_sizes_are_those_on_the_disk(lab: Lab) -> None:
    numbers = result(lab, "optimize")
    onnx = lab.folder.onnx_dir
    on_disk = sum((onnx / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert numbers["base_bytes"] == on_disk
    assert numbers["adapter_bytes"] == lab.folder.adapter_file("travel").stat().st_size
    assert number(numbers, "base_bytes") < number(numbers, "float16_bytes")
    assert number(numbers, "adapter_bytes") < number(numbers, "base_bytes")
    assert number(result(lab, "finetune"), "bytes") == pytest.approx(
        folder_bytes(lab.folder.finetuned_dir("travel")), rel=0.05
    )
    assert not half_made(lab.root)


def test_every_event_obeys_the_contract(lab: Lab) -> None:
    for job in lab.jobs():
        lines = job.events_path.read_text(encoding="utf-8").splitlines()
        events, _ = read_events(job.events_path)
        assert len(events) == len(lines), "a line that is not JSON"
        check_contract(events, job.id, "succeeded")
        if job.reused:
            continue
        phases = {e["phase"] for e in events if e["type"] == "progress"}
        assert len(phases) > 2
        # Words for people, not a library's bar: no file names, no percent signs.
        assert not [phase for phase in phases if set(phase) & set("%|/\\")]
        assert any(e["type"] == "artifact" for e in events)
    (job,) = [job for job in lab.jobs() if job.stage == "finetune" and not job.reused]
    events, _ = read_events(job.events_path)
    assert sorted(losses_of(events)) == list(range(1, (job.result or {})["steps"] + 1))
    assert any(e["type"] == "progress" and e["eta_s"] for e in events)


def test_a_second_run_returns_at_once_and_changes_nothing(lab: Lab) -> None:
    models = sorted(path for path in lab.folder.models_dir.rglob("*") if path.is_file())
    before = [(path, path.stat().st_mtime_ns, path.stat().st_ino) for path in models]
    made = {stage: result(lab, stage) for stage in STAGES}
    ran = cli("run", str(lab.root), "--json")
    assert ran.returncode == 0, ran.stderr
    events = lines_of(ran.stdout)
    jobs = list(dict.fromkeys(event["job"] for event in events))
    assert [name.rsplit("-", 1)[0] for name in jobs] == list(STAGES)
    for name in jobs:
        check_contract([e for e in events if e["job"] == name], name, "succeeded")
        job = lab.job(name)
        assert job.reused
        assert job.result == made[job.stage]
    assert [(p, p.stat().st_mtime_ns, p.stat().st_ino) for p in models] == before


def test_base_and_tuned_answer_side_by_side(lab: Lab) -> None:
    ran = cli("chat", str(lab.root), "--compare", "--prompt", QUESTION, "--json")
    assert ran.returncode == 0, ran.stderr
    (answers,) = lines_of(ran.stdout)
    for who, adapter in (("base", None), ("tuned", "travel")):
        answer = answers[who]
        assert answer.keys() >= ANSWER_KEYS
        assert answer["adapter"] == adapter
        assert answer["stop"] == "end"
        assert answer["prompt_tokens"] > 0
        assert answer["new_tokens"] > 0
        assert answer["answer"].strip()
    assert "Chicago" in answers["tuned"]["answer"]
    assert answers["base"]["answer"] != answers["tuned"]["answer"]
    # What the optimize stage saw is what people get.
    seen = result(lab, "optimize")["answers"]
    assert isinstance(seen, dict)
    assert answers["tuned"]["answer"].strip() == seen["tuned"].strip()


def test_status_tells_all_jobs_and_logs_what_they_printed(lab: Lab) -> None:
    ran = cli("status", str(lab.root), "--json")
    assert ran.returncode == 0
    (status,) = lines_of(ran.stdout)
    assert [job["id"] for job in status["jobs"]] == [job.id for job in lab.jobs()]
    for job in status["jobs"]:
        assert job.keys() >= STATUS_KEYS
        assert job["state"] == "succeeded"
        assert job["started"] < job["ended"]
        assert job["eta_s"] is None
        assert job["error"] is None
    words = cli("status", str(lab.root))
    assert words.stdout.count("succeeded") == len(status["jobs"])
    ran = cli("logs", str(lab.root), status["jobs"][0]["id"])
    assert ran.returncode == 0
    assert "Traceback" not in ran.stdout
    assert "\x1b" not in ran.stdout


def test_the_report_says_what_was_made(lab: Lab) -> None:
    text = lab.folder.report_path.read_text(encoding="utf-8")
    assert "rehearsal" in text
    for title in ("## Quantized model", "## Adapter travel", "## ONNX model"):
        assert title in text
    tuned, base = (number(result(lab, "finetune"), f"eval_loss_{who}") for who in ("tuned", "base"))
    assert f"| Held-out loss | {formats.number(base)} to {formats.number(tuned)} |" in text
    right = result(lab, "optimize")
    assert f"{right['training_right_base']} and {right['training_right_tuned']}" in text
    assert "eval_loss" not in text
    assert "olive-ai" in text


def test_without_words_a_lab_is_looked_for_here(lab: Lab) -> None:
    assert cli("status", "--json", cwd=lab.root).returncode == 0
    nowhere = cli("status", cwd=Path(os.sep))
    assert nowhere.returncode == 2
    assert "no lab here" in nowhere.stderr


def test_the_guides_python_does_what_it_says(rehearsal_lab: Path) -> None:
    """Every Python block of docs/scripting.md runs as it stands, on a copy of the lab under the name it uses."""
    page = (ROOT / "docs/scripting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 3
    rehearsal_lab.rename(rehearsal_lab.with_name("my-lab"))
    script = "\n".join(blocks).replace('Lab.create("my-lab", model="rehearsal")', 'Lab.open("my-lab")')
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=rehearsal_lab.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert "succeeded" in ran.stdout
    assert ran.stdout.count("Chicago") >= 2
