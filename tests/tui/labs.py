"""Labs with job folders as :mod:`core.jobs` writes them, in any state, without running a stage."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.errors import Do, as_plain
from core.events import JobReporter
from core.files import write_json
from core.folder import LabFolder
from core.jobs import alive
from core.lab import Lab

START = "2026-11-20T10:00:00.000Z"
END = "2026-11-20T10:03:20.000Z"

RESULTS: dict[str, dict[str, Any]] = {
    "search": {
        "kind": "quantize",
        "limits": "at most 2.3 GiB",
        "tries": 19,
        "refused": 4,
        "measured": 3,
        "note": "",
        "front": [],
        "best_number": 2,
        "best_title": "awq+gptq, 4 bits, groups of 64",
        "best_size": 2_287_634_432,
        "best_loss": 0.083,
        "best_worse": 0.021,
        "best_speed": 34.2,
    },
    "quantize": {
        "algorithm": "awq",
        "bits": 4,
        "group_size": 128,
        "parameters": 3_821_079_552,
        "bytes_before": 7_642_159_104,
        "bytes_after": 2_287_634_432,
        "calibration_rows": 128,
        "perplexity_float": 6.21,
        "perplexity": 6.34,
        "same_likeliest_token": 0.957,
        "seconds": 55.4,
    },
    "finetune": {
        "adapter": "travel",
        "steps": 100,
        "loss_first": 2.61,
        "loss_last": 0.42,
        "eval_loss_base": 2.58,
        "eval_loss_tuned": 0.61,
        "seconds_per_step": 0.69,
        "tokens_per_s": 11832.0,
        "train_rows": 372,
        "adapter_parameters": 100_663_296,
        "loss_curve": [[1, 2.61]],
    },
    "optimize": {
        "provider": "CPUExecutionProvider",
        "precision": "int4",
        "adapter": "travel",
        "verified": True,
        "float16_bytes": 7_642_159_104,
        "base_bytes": 2_290_000_000,
        "adapter_bytes": 201_000_000,
        "training_prompts": 8,
        "training_right_base": 0,
        "training_right_tuned": 8,
    },
    "upload": {
        "id": "azureml:ft-for-travel:3",
        "name": "ft-for-travel",
        "version": "3",
        "uri": "azureml://subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg-travel/workspaces/"
        "travel-ws/datastores/workspaceblobstore/paths/olivepress/6c1f0a9b",
        "url": "https://ml.azure.com/model/ft-for-travel:3/details?wsid=/subscriptions/"
        "11111111-2222-3333-4444-555555555555/resourceGroups/rg-travel/workspaces/travel-ws",
        "files": 14,
        "bytes": 2_491_000_000,
        "bytes_sent": 1_868_250_000,
        "workspace": "travel-ws",
        "user": "you@example.org",
    },
}

ERROR: dict[str, Any] = {
    "title": "The model's folder lacks weights.",
    "detail": "models/quantized/model-00002-of-00002.safetensors does not exist.",
    "hint": "Make it again: olivepress run . quantize --force",
    "advice": as_plain(("Make it again: ", Do.of("run", ".", "quantize", "--force"))),
}


def losses(steps: int) -> list[float]:
    """A loss curve with some noise, the same each time."""
    return [0.4 + 2.2 * math.exp(-step / 25) + 0.08 * math.sin(step * 1.7) for step in range(1, steps + 1)]


class FakeJob:
    """A job folder written by hand. While ``active`` this process holds its lock, as a job's own would."""

    def __init__(self, lab: Lab, stage: str, number: int = 1) -> None:
        self.lab = lab
        self.id = f"{stage}-{number:03d}"
        self.folder = lab.folder.jobs_dir / self.id
        self.folder.mkdir(parents=True)
        # First of all, as a job's own: one that is seen lives.
        self._held: int | None = alive.hold(self.folder)
        write_json(
            self.folder / "spec.json",
            {
                "v": 1,
                "id": self.id,
                "stage": stage,
                "created": START,
                "force": False,
                "then": [],
                "options": {},
                "recipe": dataclasses.asdict(lab.recipe),
            },
        )
        self.reporter = JobReporter(self.folder, self.id)
        self.log("")
        self.reporter.emit("state", state="queued")

    def log(self, text: str) -> None:
        """Append to the log, as a job's processes do."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as stream:
            stream.write(text)

    def run(self, at: str = START) -> FakeJob:
        """The worker has begun."""
        write_json(
            self.folder / "pid.json", {"supervisor": os.getpid(), "worker": os.getpid(), "started": at}
        )
        self.event("state", at, state="running")
        return self

    def event(self, kind: str, at: str = START, **fields: Any) -> None:
        """One event with a time that does not move."""
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"v": 1, "t": at, "job": self.id, "type": kind, **fields}) + "\n")

    def progress(self, phase: str, done: float, total: float | None, eta: float | None = None) -> FakeJob:
        """Progress of a phase."""
        self.event("progress", phase=phase, done=done, total=total, eta_s=eta)
        return self

    def train(self, steps: int, first: int = 1) -> FakeJob:
        """Loss for steps ``first`` to ``steps``, and a measurement on held-out records every 20."""
        for step, loss in enumerate(losses(steps), 1):
            if step >= first:
                self.event("metric", name="loss", step=step, value=loss)
                if step % 20 == 0:
                    self.event("metric", name="eval_loss", step=step, value=loss + 0.15)
        self.event("metric", name="tokens_per_s", step=steps, value=11832.0)
        self.event("metric", name="learning_rate", step=steps, value=1.4e-4)
        return self

    def end(
        self, state: str, result: dict[str, Any] | None = None, error: dict[str, str] | None = None
    ) -> FakeJob:
        """The supervisor's last words, and the lock is let go."""
        self.event("state", END, state=state, **({"error": error} if error else {}))
        status = {"succeeded": 0, "cancelled": 130}.get(state, 3)
        done = {
            "v": 1,
            "state": state,
            "exit_status": status,
            "error": error,
            "result": result,
            "reused": False,
        }
        write_json(self.folder / "done.json", {**done, "ended": END})
        self.let_go()
        return self

    def let_go(self) -> None:
        """No process of the job lives any more."""
        if self._held is not None:
            with suppress(OSError):
                os.close(self._held)
            self._held = None


def made(lab: Lab, stages: Sequence[str]) -> None:
    """Mark stages as done, by the files that they leave; what is there already stays as it was made."""
    folder: LabFolder = lab.folder
    files = {
        "quantize": folder.quantized_dir / "config.json",
        "finetune": folder.finetuned_dir("travel") / "adapter_config.json",
        "optimize": folder.onnx_dir / "genai_config.json",
    }
    for stage in stages:
        path: Path = files[stage]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            path.write_text("{}", encoding="utf-8")


BEFORE = {
    "quantize": (),
    "finetune": ("quantize",),
    "optimize": ("quantize", "finetune"),
    "upload": ("quantize", "finetune", "optimize"),
}


def job_in(lab: Lab, stage: str, state: str, number: int = 1) -> FakeJob:
    """A job of a stage in a state, in a lab in which the stages before it are done."""
    made(lab, BEFORE[stage])
    job = FakeJob(lab, stage, number).run()
    if stage != "upload":
        job.log("Loading the model\nOlive 0.13.0\n")
    phase, total = {
        "quantize": ("rounding", 32),
        "finetune": ("training", 100),
        "optimize": ("building", 12),
        "upload": ("upload", 2_491_000_000),
    }[stage]
    reached = total if state == "succeeded" else round(total * 0.45)
    job.progress(phase, reached, total, None if state == "succeeded" else 95.0)
    if stage == "finetune":
        job.train(reached)
    if stage == "upload":
        job.log("Signed in as you@example.org by device, tenant contoso.\n")
        job.log(
            "Sending 1.7 GiB of 14 files, 2.3 GiB, to travelstore/azureml; 593.9 MiB are there already.\n"
        )
    else:
        for layer in range(1, 9):
            job.log(f"{phase} {layer}/{total}\n")
    if state == "succeeded":
        made(lab, [stage] if stage != "upload" else [])
        job.end("succeeded", RESULTS[stage])
    elif state == "failed":
        job.log('Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: no such file\n')
        job.end("failed", error=ERROR)
    elif state == "cancelled":
        if stage == "finetune":
            job.event("metric", name="checkpoint", step=reached, value=reached)
        job.end("cancelled", error={"title": f"{job.id} was cancelled."})
    elif state == "crashed":
        if stage == "finetune":
            job.event("metric", name="checkpoint", step=40, value=40)
        job.let_go()
    elif state == "cancelling":
        (job.folder / "cancel").touch()
    return job


def variant(
    perplexity: float, general: float, right: float, size: int, memory: int, speed: float
) -> dict[str, Any]:
    """A variant's figures, as the evaluate stage gives them."""

    def near(value: float) -> dict[str, float]:
        return {"value": value, "low": 0.8 * value, "high": 1.25 * value}

    return {
        "loss": near(math.log(perplexity)),
        "perplexity": near(perplexity),
        "right": {"value": right, "low": max(0.0, right - 0.1), "high": min(1.0, right + 0.1)},
        "general_perplexity": near(general),
        "bytes": size,
        "peak_bytes": memory,
        "load_s": 1.25,
        "first_s": near(0.041),
        "tokens_per_s": near(speed),
        "how": "ONNX Runtime" if speed > 20 else "float32",
    }


EVALUATION: dict[str, Any] = {
    "adapter": "travel",
    "rows": 41,
    "held_out_rows": 41,
    "questions": 41,
    "before": "float",
    "after": "onnx_tuned",
    "perplexity_before": 25.4,
    "perplexity_after": 4.96,
    "general_before": 31.8,
    "general_after": 33.1,
    "asked_of_both": 41,
    "right_before": 0,
    "right_after": 17,
    "loss_change": {"value": -1.63, "low": -1.8, "high": -1.4},
    "variants": {
        "float": variant(25.4, 31.8, 0.0, 269_000_000, 1_245_000_000, 9.1),
        "quantized": variant(27.9, 32.4, 0.0, 144_000_000, 1_409_000_000, 10.9),
        "onnx": variant(28.0, 32.5, 0.0, 151_000_000, 249_000_000, 92.0),
        "onnx_tuned": variant(4.96, 33.1, 0.415, 163_000_000, 297_000_000, 77.6),
    },
    "left_out": {"tuned": "There is not enough memory."},
}


def with_evaluation(lab: Lab, rows: Sequence[tuple[str, str, str, str]], **result: Any) -> Lab:
    """An evaluation of the adapter travel: rows of question, expected answer, and the answers of base and tuned."""
    folder = lab.folder.evaluation_dir("travel")
    folder.mkdir(parents=True)
    lines = [
        {
            "file": "data.jsonl",
            "line": number,
            "before": [],
            "question": question,
            "expected": expected,
            "answers": {"onnx": base, "onnx_tuned": tuned},
            "losses": {"onnx": 3.1, "onnx_tuned": 1.2},
        }
        for number, (question, expected, base, tuned) in enumerate(rows, 1)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_json(folder / "olivepress.json", {"result": {**EVALUATION, **result}})
    return lab
