"""Each check fires where it should and keeps still where it should."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import Distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core import Lab, MachineError, RequestError
from core.algorithms import ALGORITHMS
from core.check import (
    azure,
    data,
    devices,
    gpu,
    machine,
    model,
    packages,
    place,
    require,
    run_checks,
    subject_of,
    terminal,
)
from core.check.needs import Lengths, Machine, StageNeed, stage_needs
from core.check.types import FAIL, OK, SKIP, WARN, Check, Probe, Subject, as_markdown, overall, run_probes
from core.jobs import alive
from core.model.folder import config_facts
from core.recipe import Recipe
from core.trackers import TRACKERS, Tracker
from tests.recipes import settled


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab.create(tmp_path / "lab")


@pytest.fixture
def subject(lab: Lab) -> Subject:
    return subject_of(lab.root)


def states(checks: Iterator[Check] | list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def changed(subject: Subject, values: dict[str, Any]) -> Subject:
    return replace(subject, recipe=subject.recipe.with_values(values))


def test_a_tracker_that_is_not_installed_keeps_a_finetune_from_running(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(packages.tracker(subject)) == []
    wanted = changed(subject, {"finetune.track": "wandb"})
    absent = Tracker(("no_such_package",), "json", lambda about: pytest.fail("it began"), {})
    monkeypatch.setitem(TRACKERS, "wandb", absent)
    (found,) = packages.tracker(wanted)
    assert (found.state, found.code) == (FAIL, "tracker.missing")
    assert "olivepress[wandb]" in found.fix
    monkeypatch.setitem(TRACKERS, "wandb", replace(absent, modules=("json",)))
    assert states(packages.tracker(wanted)) == {"tracker": OK}


# --- running them ---------------------------------------------------------------------------------


def test_a_probe_that_hangs_or_breaks_is_told_and_does_not_hold_up_the_rest(subject: Subject) -> None:
    release = threading.Event()

    def hangs(_: Subject) -> list[Check]:
        release.wait()
        return []

    def breaks(_: Subject) -> list[Check]:
        raise ValueError("odd")

    told: list[str] = []
    probes = [
        Probe("hangs", hangs, limit_s=0.3),
        Probe("breaks", breaks),
        Probe("fine", lambda _: [Check("fine", OK, "x")]),
    ]
    checks = run_probes(probes, subject, lambda check: told.append(check.name))
    assert not release.is_set(), "nobody waited for the one that hangs"
    release.set()
    assert states(checks) == {"hangs": WARN, "breaks": WARN, "fine": OK}
    assert "0.3 s" in checks[0].found
    assert "ValueError: odd" in checks[1].found
    assert told[-1] == "hangs"


def test_all_checks_of_a_fresh_rehearsal_lab_let_it_run(lab: Lab) -> None:
    checks = run_checks(lab.root)
    assert overall(checks), [c for c in checks if c.state == FAIL]
    assert {"python", "packages", "gpu", "model", "memory", "disk", "data", "folder"} <= states(checks).keys()
    require(lab, ["quantize"])


def test_markdown_keeps_foreign_pipes_and_newlines_in_their_cells() -> None:
    text = as_markdown([Check("a|b", OK, "x\ny", "")])
    assert len(text.splitlines()) == 3
    assert "a\\|b" in text


def test_require_names_what_failed_and_what_to_do(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.set({"data.file": "nowhere.jsonl"})
    with pytest.raises(RequestError) as caught:
        require(lab, ["finetune"])
    assert "nowhere.jsonl" in caught.value.detail
    assert "--no-check" not in caught.value.hint, "the stage would refuse the same"
    require(lab, ["optimize"])  # needs no data
    too_little = Check("memory", FAIL, "Too little.", "Close something.")
    monkeypatch.setattr("core.check.probes", lambda: [Probe("memory", lambda subject: iter([too_little]))])
    with pytest.raises(MachineError) as refused:
        require(lab, ["finetune"])
    assert "--no-check" in refused.value.hint, "an estimate may be wrong"


# --- packages -------------------------------------------------------------------------------------


def fake_packages(**known: tuple[str, list[str]]) -> Callable[[str], Distribution | None]:
    def find(name: str) -> Any:
        if name not in known:
            return None
        version, requires = known[name]
        return SimpleNamespace(name=name, version=version, requires=requires)

    return find


def test_packages_that_fit_give_no_conflict() -> None:
    find = fake_packages(root=("1", ["a>=2", "c; extra == 'x'"]), a=("2.1", ["b"]), b=("1", None))  # type: ignore[arg-type]
    assert list(packages.find_conflicts("root", find)) == []


def test_conflicts_are_named_by_pair() -> None:
    find = fake_packages(root=("1", ["a>=2", "gone"]), a=("1.9", ["b<3"]), b=("3.0", []))
    problems = list(packages.find_conflicts("root", find))
    assert any("root 1 needs a>=2, and 1.9 is installed" in p for p in problems)
    assert any("a 1.9 needs b<3, and 3.0 is installed" in p for p in problems)
    assert any("needs gone, which is missing" in p for p in problems)


def test_pairs_that_install_but_do_not_work_are_known() -> None:
    versions = {
        "root": ("1", ["olive-ai", "transformers"]),
        "olive-ai": ("0.13.0", []),
        "transformers": ("5.24.0", []),
    }
    (problem,) = packages.find_conflicts("root", fake_packages(**versions))
    assert "olive-ai 0.13.0 does not work with transformers 5.24.0" in problem


def test_the_installed_set_is_whole(subject: Subject) -> None:
    assert states(packages.packages(subject)) == {"packages": OK}
    assert states(packages.python(subject))["python"] in (OK, WARN)


def test_an_old_python_fails(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    assert states(packages.python(subject)) == {"python": FAIL}


# --- gpu ------------------------------------------------------------------------------------------


class FakeNvml:
    """As much of pynvml as the checks use."""

    class NVMLError(Exception):
        pass

    def __init__(self, **more: Any) -> None:
        self.count, self.cuda, self.capability, self.mig, self.free, self.dead = (
            1,
            13000,
            (9, 0),
            0,
            70 << 30,
            False,
        )
        self.processes: list[Any] = []
        self.__dict__.update(more)

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if self.dead:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetName(self, _: int) -> bytes:
        return b"NVIDIA Test"

    def nvmlDeviceGetUUID(self, index: int) -> str:
        return f"GPU-{index}a"

    def nvmlDeviceGetUtilizationRates(self, _: int) -> Any:
        raise self.NVMLError("not supported")

    def nvmlDeviceGetMemoryInfo(self, _: int) -> Any:
        return SimpleNamespace(total=80 << 30, free=self.free, used=(80 << 30) - self.free)

    def nvmlDeviceGetCudaComputeCapability(self, _: int) -> tuple[int, int]:
        return self.capability

    def nvmlDeviceGetMigMode(self, _: int) -> tuple[int, int]:
        if self.mig is None:
            raise self.NVMLError("not supported")
        return self.mig, self.mig

    def nvmlDeviceGetComputeRunningProcesses(self, _: int) -> list[Any]:
        return self.processes


@pytest.mark.parametrize(
    ("nvml", "expected"),
    [
        (FakeNvml(), {"gpu driver": OK, "gpu": OK}),
        (FakeNvml(mig=None), {"gpu driver": OK, "gpu": OK}),
        (FakeNvml(cuda=11080), {"gpu driver": FAIL, "gpu": OK}),
        (FakeNvml(capability=(6, 1)), {"gpu driver": OK, "gpu": WARN}),
        (FakeNvml(mig=1), {"gpu driver": OK, "gpu": WARN}),
        (FakeNvml(dead=True), {"gpu driver": OK, "gpu": WARN}),
        (FakeNvml(count=2), {"gpu driver": OK, "gpu 0": OK, "gpu 1": OK, "gpu count": OK}),
        (FakeNvml(count=0), {"gpu": OK}),
        (
            FakeNvml(free=1 << 30, processes=[SimpleNamespace(pid=1, usedGpuMemory=79 << 30)]),
            {"gpu driver": OK, "gpu": WARN},
        ),
    ],
)
def test_gpu(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(gpu, "load_nvml", lambda: nvml)
    assert states(gpu.gpu(subject)) == expected


@pytest.mark.parametrize(
    ("gpus", "asked", "state", "words"),
    [
        (2, 1, OK, "2 GPUs; finetune uses 1"),
        (2, 2, OK, "2 GPUs; finetune uses 2"),
        (2, "auto", OK, "as many as pay"),
        (2, 4, FAIL, "2 GPUs; finetune.gpus is 4"),
        (1, 4, FAIL, "1 GPU; finetune.gpus is 4"),
        (0, 2, FAIL, "No GPU; finetune.gpus is 2"),
    ],
)
def test_as_many_gpus_as_are_asked_for(
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    asked: int | str,
    state: str,
    words: str,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu, "load_nvml", lambda: FakeNvml(count=gpus))
    wanted = changed(subject, {"finetune.gpus": asked})
    (check,) = (each for each in gpu.gpu(wanted) if each.name == "gpu count")
    assert (check.state, words in check.found) == (state, True), check.found
    assert check.code == ("gpu.count" if state == FAIL else "")
    other = replace(wanted, stages=("quantize",))
    (check,) = (each for each in gpu.gpu(other) if each.name == "gpu count")
    assert check.state != FAIL, "another stage does not need them"


@pytest.mark.parametrize("gpu_free", [0, 78 << 30])
def test_an_algorithm_that_makes_up_for_errors_needs_more(
    gpu_free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = config_facts({"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
                          "num_hidden_layers": 30, "num_attention_heads": 9, "vocab_size": 49152})  # fmt: skip
    here, rows = Machine(gpu_free, 2), Lengths(4000, 512.0, 512)

    def need() -> StageNeed:
        values = {"quantize.algorithm": "awq+gptq", "quantize.calibration_samples": 4000}
        return stage_needs(facts, settled(values), here, rows)["quantize"]

    after = need()
    algorithm = ALGORITHMS["awq+gptq"]
    assert algorithm.olive["correction"]
    without = algorithm._replace(olive={**algorithm.olive, "correction": 0.0})
    monkeypatch.setitem(ALGORITHMS, "awq+gptq", without)
    before = need()
    more = after.gpu - before.gpu if gpu_free else after.ram - before.ram
    states = 4000 * 512 * 576 * (2 if gpu_free else 4)
    assert states < more < 1.5 * states
    assert after.seconds > before.seconds


@pytest.mark.parametrize(("gpu_free", "least", "most"), [(78 << 30, 1.5, 20), (0, 3, 100)])
def test_learning_the_rounding_takes_longer_and_more_memory(gpu_free: int, least: float, most: float) -> None:
    facts = config_facts({"model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192,
                          "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064})  # fmt: skip
    plain, learnt = (
        stage_needs(
            facts, settled({"quantize.algorithm": name}), Machine(gpu_free, 4), Lengths(128, 512.0, 512)
        )["quantize"]
        for name in ("awq", "awq+signround")
    )
    assert least < learnt.seconds / plain.seconds < most
    assert learnt.gpu > plain.gpu if gpu_free else learnt.ram > plain.ram


def test_what_a_finetune_needs_follows_the_number_of_gpus() -> None:
    facts = config_facts({"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
                          "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064})  # fmt: skip
    here = Machine(78 << 30, 8, others_free=(78 << 30, 78 << 30, 60 << 30))

    def need(gpus: int | str, machine: Machine = here) -> StageNeed:
        values = {
            "finetune.steps": 9000,
            "finetune.batch_size": 8,
            "finetune.gpus": gpus,
            "finetune.rank": 64,
        }
        return stage_needs(facts, settled(values), machine, Lengths(1000, 1000.0, 1024))["finetune"]

    one, two, four = need(1), need(2), need(4)
    assert need("auto") == four
    assert need("auto", Machine(78 << 30, 8)) == one
    # All but the start is divided.
    assert 1.7 < one.seconds / two.seconds < 2
    assert 2.9 < one.seconds / four.seconds < 4
    assert four.seconds < need(3).seconds < two.seconds, "the longest share decides: 3 records of 8"
    assert one.gpu > two.gpu > four.gpu, "fewer records at once"
    assert one.ram < two.ram < four.ram
    assert need(4, replace(here, others_free=(78 << 30, 78 << 30, 9 << 30))).gpu < four.gpu, (
        "the fullest decides"
    )


def test_a_base_that_one_gpu_cannot_hold_is_counted_as_spread() -> None:
    facts = config_facts(
        {
            "model_type": "llama",
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
        }
    )

    def need(gpus: int | str, room: int) -> StageNeed:
        values = {"finetune.gpus": gpus, "finetune.rank": 16, "finetune.batch_size": 2, "finetune.steps": 100}
        here = Machine(room << 30, 8, others_free=(room << 30,))
        return stage_needs(facts, settled(values), here, Lengths(1000, 1000.0, 1024))["finetune"]

    assert need(1, 32).gpu > 32 << 30, "nobody asked for another"
    for asked in (2, "auto"):
        assert need(asked, 32).gpu < 32 << 30
        assert need(asked, 32).ram == need(1, 32).ram, "one process"
        assert need(asked, 32).seconds == pytest.approx(need(1, 32).seconds), "one works at a time"
    assert need(2, 80).seconds < need(1, 80).seconds, "each holds it"


def test_the_fullest_of_several_gpus_decides_whether_it_fits() -> None:
    need = StageNeed("finetune", 1, 8 << 30, 1, 1.0, gpu_free=5 << 30)
    told = machine.judge_gpu([need], 70 << 30)
    assert (told.state, "5.0 GiB free" in told.found) == (FAIL, True)
    assert machine.judge_gpu([replace(need, gpu_free=9 << 30)], 70 << 30).state == OK


@pytest.mark.parametrize("call", ["nvmlDeviceGetCount", "nvmlSystemGetDriverVersion", "nvmlDeviceGetName"])
def test_a_driver_that_goes_while_it_is_asked_is_told(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    nvml = FakeNvml()

    def gone(*_: object) -> None:
        raise nvml.NVMLError("Driver/library version mismatch")

    monkeypatch.setattr(nvml, call, gone, raising=False)
    monkeypatch.setattr(gpu, "load_nvml", lambda: nvml)
    told = [each for each in gpu.gpu(subject) if "version mismatch" in each.found]
    assert [each.state for each in told] == [WARN if call == "nvmlDeviceGetName" else FAIL]
    assert "nvidia-smi" in told[0].fix
    assert "torch build" in states(gpu.builds(subject))


def test_who_holds_the_gpu_is_named(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    nvml = FakeNvml(free=1 << 30, processes=[SimpleNamespace(pid=os.getpid(), usedGpuMemory=79 << 30)])
    monkeypatch.setattr(gpu, "load_nvml", lambda: nvml)
    (held,) = (c for c in gpu.gpu(subject) if c.name == "gpu")
    assert f"pid {os.getpid()}, 79.0 GiB" in held.found


def test_no_gpu_is_fine_for_the_rehearsal_and_told_for_others(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "load_nvml", lambda: None)
    monkeypatch.setattr(gpu, "DRIVER_MARKS", ())
    assert states(gpu.gpu(subject)) == {"gpu": OK}
    assert states(gpu.gpu(changed(subject, {"model.source": "a/b"}))) == {"gpu": WARN}
    mark = tmp_path / "nvidia0"
    mark.touch()
    monkeypatch.setattr(gpu, "DRIVER_MARKS", (str(mark),))
    (check,) = gpu.gpu(subject)
    assert check.state == WARN
    assert "library" in check.found


@pytest.mark.parametrize(
    ("has_gpu", "cuda", "have", "expected"),
    [
        (False, "", {"onnxruntime-genai": "0.18.0"}, {"torch build": OK, "onnxruntime build": OK}),
        (True, "", {"onnxruntime-genai": "0.18.0"}, {"torch build": WARN, "onnxruntime build": OK}),
        (True, "13.0", {"onnxruntime-genai-cuda": "0.18.0"}, {"torch build": OK, "onnxruntime build": OK}),
        (True, None, {"onnxruntime-genai": "0.18.0"}, {"torch build": SKIP, "onnxruntime build": OK}),
        (
            False,
            "",
            {"onnxruntime-genai": "0.18.0", "onnxruntime-genai-cuda": "0.18.0"},
            {"torch build": OK, "onnxruntime build": WARN},
        ),
    ],
)
def test_builds(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, has_gpu: bool, cuda: str | None, have: dict[str, str],
    expected: dict[str, str],
) -> None:  # fmt: skip
    monkeypatch.setattr(gpu, "load_nvml", lambda: FakeNvml() if has_gpu else None)
    monkeypatch.setattr(gpu, "torch_cuda", lambda: cuda)
    monkeypatch.setattr(gpu, "package_version", lambda name: have.get(name, ""))
    assert states(gpu.builds(subject)) == expected


def test_a_cpu_build_of_genai_is_told_when_the_recipe_builds_for_cuda(subject: Subject) -> None:
    wanted = {"optimize.device": "gpu", "optimize.provider": "CUDAExecutionProvider"}
    assert states(gpu.builds(changed(subject, wanted)))["onnxruntime build"] == WARN


def test_a_recipe_that_cannot_be_built_here_fails_before_any_stage(subject: Subject) -> None:
    assert list(devices.devices(subject)) == []
    wanted = {"optimize.device": "npu", "optimize.provider": "QNNExecutionProvider"}
    (check,) = devices.devices(changed(subject, wanted))
    assert check.state == FAIL
    assert "optimize.device = cpu" in check.fix
    (check,) = devices.devices(changed(subject, {"optimize.precision": "fp16"}))
    assert check.state == FAIL
    assert "int4" in check.fix


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("cpu", {"CPU": OK}),
        ("gpu", {"Dml": WARN, "OpenVINO": SKIP}),
        ("npu", {"OpenVINO": FAIL, "QNN": FAIL, "VitisAI": FAIL}),
    ],
)
def test_a_device_that_is_asked_about_is_told_provider_by_provider(
    subject: Subject, device: str, told: dict[str, str]
) -> None:
    found = states(devices.devices(replace(subject, device=device)))
    assert told.items() <= found.items()
    assert device == "gpu" or found == told


# --- memory, disk, time ---------------------------------------------------------------------------

NEEDS = [
    StageNeed("quantize", 2 << 30, 3 << 30, 1 << 30, 60),
    StageNeed("finetune", 4 << 30, 8 << 30, 1 << 20, 600),
]


@pytest.mark.parametrize(("free", "state"), [(8 << 30, OK), ((4 << 30) + 1, WARN), (3 << 30, FAIL)])
def test_memory(free: int, state: str) -> None:
    check = machine.judge_ram(NEEDS, free)
    assert check.state == state
    assert (state != FAIL) or "finetune.batch_size" in check.fix


@pytest.mark.parametrize(("free", "state"), [((8 << 30) + 1, OK), (7 << 30, FAIL)])
def test_gpu_memory(free: int, state: str) -> None:
    assert machine.judge_gpu(NEEDS, free).state == state


@pytest.mark.parametrize(("free", "state"), [(3 << 30, OK), (1 << 30, FAIL)])
def test_disk(free: int, state: str, tmp_path: Path) -> None:
    assert machine.judge_disk(NEEDS, free, tmp_path).state == state


def test_time_is_worth_a_warning_only_when_long() -> None:
    assert machine.judge_time(NEEDS).state == OK
    assert machine.judge_time([replace(NEEDS[0], seconds=9000)]).state == WARN
    after = machine.judge_time(NEEDS[:1], replace(NEEDS[0], stage="evaluate", seconds=9000))
    assert (after.state, "; evaluate, where it is asked for, " in after.found) == (OK, True)


def test_a_gpu_the_recipe_does_not_fit_on_fails_the_check(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
              "num_attention_heads": 32, "vocab_size": 32064}  # fmt: skip
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    big = changed(subject, {"model.source": str(tmp_path / "m"), "finetune.batch_size": 64})
    monkeypatch.setattr(machine, "machine", lambda: Machine(12 << 30, 8))
    assert states(machine.needs(big))["gpu memory"] == FAIL
    monkeypatch.setattr(machine, "machine", lambda: Machine(140 << 30, 8))
    assert states(machine.needs(big))["gpu memory"] == OK
    assert states(machine.needs(changed(subject, {"model.source": str(tmp_path / "none")}))) == {
        "memory": SKIP
    }


# --- place ----------------------------------------------------------------------------------------


def test_recipe(lab: Lab, tmp_path: Path) -> None:
    assert states(place.recipe(subject_of(lab.root))) == {"recipe": OK}
    assert states(place.recipe(subject_of(tmp_path / "empty"))) == {"recipe": WARN}
    lab.folder.recipe_path.write_text("[quantize]\nbits = 5\n")
    (check,) = place.recipe(subject_of(lab.root))
    assert check.state == FAIL
    assert "line 2" in check.found


MOUNTS = "/dev/vda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\ntmpfs /home/me/local tmpfs rw 0 0\n"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/opt/lab", "ext4"), ("/home/me/lab", "nfs4"), ("/home/me/local/lab", "tmpfs"), ("/homes", "ext4")],
)
def test_file_system(path: str, kind: str) -> None:
    assert place.file_system(Path(path), MOUNTS) == kind


def test_folder(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(place.folder(subject)) == {"folder": OK}
    monkeypatch.setattr(place, "file_system", lambda *_: "nfs4")
    assert states(place.folder(subject)) == {"folder": WARN}

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    (check,) = place.folder(subject)
    assert check.state == FAIL
    assert "Read-only" in check.found


def test_another_job(subject: Subject) -> None:
    assert states(place.other_job(subject)) == {"jobs": SKIP}
    folder = subject.lab.jobs_dir / "quantize-001"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    assert states(place.other_job(subject)) == {"jobs": OK}
    import os

    held = alive.hold(folder)
    try:
        (check,) = place.other_job(subject)
    finally:
        os.close(held)
    assert check.state == FAIL
    assert "quantize-001" in check.found


# --- data, azure, terminal ------------------------------------------------------------------------


def test_data(subject: Subject) -> None:
    assert states(data.data(subject)) == {"data": OK}
    assert states(data.data(changed(subject, {"data.file": "none.jsonl"}))) == {"data": FAIL}
    (subject.lab.root / "empty.jsonl").touch()
    assert states(data.data(changed(subject, {"data.file": "empty.jsonl"}))) == {"data": FAIL}
    (subject.lab.root / "broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt":\n')
    (check,) = data.data(changed(subject, {"data.file": "broken.jsonl"}))
    assert check.state == FAIL
    assert "line 2" in check.found


def test_azure(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure, "remembered", lambda: None)
    monkeypatch.setattr(azure, "found", lambda: None)
    assert states(azure.azure(subject)) == {"azure sign-in": SKIP}
    partly = changed(subject, {"upload.workspace": "w"})
    assert states(azure.azure(partly)) == {"azure sign-in": WARN, "azure workspace": WARN}
    monkeypatch.setattr(azure, "found", lambda: SimpleNamespace(method="cli", chosen=False, user=""))
    whole = changed(partly, {"upload.subscription": "s", "upload.resource_group": "g"})
    assert states(azure.azure(whole)) == {"azure sign-in": OK, "azure workspace": OK}


@pytest.mark.parametrize(
    ("environment", "size", "encoding", "state", "word"),
    [
        ({"TERM": "xterm-256color"}, (80, 24), "UTF-8", OK, "256 colours"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, (120, 40), "UTF-8", OK, "true colour"),
        ({"TERM": "screen", "TMUX": "/x"}, (80, 24), "UTF-8", OK, "tmux"),
        ({"TERM": "xterm", "TERM_PROGRAM": "vscode"}, (80, 24), "UTF-8", OK, "VS Code"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, (80, 24), "UTF-8", OK, "no colours"),
        ({"TERM": "dumb"}, (80, 24), "UTF-8", WARN, "no colours"),
        ({}, (80, 24), "UTF-8", WARN, "TERM not set"),
        ({"TERM": "xterm"}, (79, 24), "UTF-8", WARN, "small"),
        ({"TERM": "xterm"}, (80, 24), "ISO-8859-1", WARN, "not UTF-8"),
    ],
)
def test_terminal(
    environment: dict[str, str], size: tuple[int, int], encoding: str, state: str, word: str
) -> None:
    check = terminal.judge(environment, *size, encoding)
    assert check.state == state
    assert word in check.found


def test_no_terminal_is_skipped(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: False, raising=False)
    assert states(terminal.terminal(subject)) == {"terminal": SKIP}


# --- model ----------------------------------------------------------------------------------------


def test_local_models(subject: Subject, tmp_path: Path) -> None:
    assert states(model.model(subject)) == {"model": OK, "architecture": OK}
    missing = changed(subject, {"model.source": "./none"})
    assert states(model.model(missing))["model"] == FAIL
    assert states(
        model.model(changed(subject, {"model.source": "azureml://registries/r/models/m/versions/1"}))
    ) == {"model": SKIP}


@pytest.mark.parametrize(
    ("config", "values", "expected"),
    [
        ({"model_type": "phi3"}, {}, {"architecture": OK}),
        ({"model_type": "phi3", "auto_map": {"AutoModel": "x"}}, {}, {"architecture": OK}),
        ({"model_type": "nemotron"}, {}, {"architecture": WARN}),
        ({"model_type": "mixtral"}, {}, {"architecture": FAIL}),
        ({"model_type": "weird"}, {}, {"architecture": FAIL}),
        ({"model_type": "weird", "auto_map": {"A": "b"}}, {}, {"architecture": FAIL, "remote code": FAIL}),
        (
            {"model_type": "weird", "auto_map": {"A": "b"}},
            {"model.trust_remote_code": True},
            {"architecture": FAIL, "remote code": WARN},
        ),
        (
            {"model_type": "phi3"},
            {"model.trust_remote_code": True},
            {"architecture": OK, "remote code": WARN},
        ),
        (
            {"model_type": "phi3", "quantization_config": {"quant_method": "gptq"}},
            {"quantize.algorithm": "none"},
            {"architecture": OK, "weights": FAIL},
        ),
        (
            {"model_type": "phi3", "quantization_config": {"quant_method": "olive", "bits": 4}},
            {},
            {"architecture": OK, "weights": FAIL},
        ),
        (
            {"model_type": "phi3", "quantization_config": {"quant_method": "olive", "bits": 4}},
            {"quantize.algorithm": "none"},
            {"architecture": OK},
        ),
        ({"model_type": "phi3", "max_position_embeddings": 128}, {}, {"architecture": OK}),
        (
            {"model_type": "phi3", "max_position_embeddings": 128},
            {"data.max_seq_len": 512},
            {"architecture": OK, "context": WARN},
        ),
    ],
)
def test_abilities(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], values: dict[str, Any],
    expected: dict[str, str],
) -> None:  # fmt: skip
    monkeypatch.setattr(model, "facts_of", lambda _: config_facts(config))
    assert states(model._abilities(changed(subject, values))) == expected


def test_defaults_are_checked_where_there_is_no_lab(tmp_path: Path) -> None:
    subject = subject_of(tmp_path / "nothing/here")
    assert subject.recipe == Recipe()
    assert not subject.has_recipe


LLAMA = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
         "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
         "dtype": "bfloat16"}  # fmt: skip
GEMMA = {"model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
         "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
         "tie_word_embeddings": True, "dtype": "bfloat16"}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "tokens", "group", "measured"),
    [(LLAMA, 63.0, 64, (147, 120, 43)), (GEMMA, 37.5, 128, (103, 144, 86))],
)
def test_times_are_those_of_the_real_models(
    config: dict[str, Any], tokens: float, group: int, measured: tuple[int, int, int]
) -> None:
    """The times of docs/real-models.md, on 2 cores: what is said is no more than twice that, and hardly less."""
    recipe = settled(
        {
            "quantize.group_size": group,
            "quantize.calibration_samples": 128,
            "finetune.steps": 60,
            "finetune.batch_size": 8,
            "finetune.rank": 16,
        }
    )
    needs = stage_needs(config_facts(config), recipe, Machine(0, 2), Lengths(334, tokens, 100))
    for stage, seconds in zip(("quantize", "finetune", "optimize"), measured, strict=True):
        assert 0.9 * seconds < needs[stage].seconds < 2 * seconds, stage


def test_an_evaluation_is_estimated_as_it_was_measured() -> None:
    """SmolLM2 on 2 cores with 41 held-out records: 271 s of processor time in the children alone, 2.2 GiB."""
    need = stage_needs(
        config_facts(LLAMA), settled({"data.eval_fraction": 0.1}), Machine(0, 2), Lengths(413, 63.0, 84)
    )
    assert 270 < need["evaluate"].seconds < 660
    assert 2.2 * 2**30 < need["evaluate"].ram < 2.6 * 2**30
    small = stage_needs(config_facts(LLAMA), settled({}), Machine(0, 2, 3 * 2**29), Lengths(413, 63.0, 84))
    assert small["evaluate"].ram < need["evaluate"].ram  # the float model is left out


def test_a_merged_adapter_is_counted_as_another_rounding_and_another_build() -> None:
    plain = settled({"quantize.group_size": 64})
    merged = settled({"quantize.group_size": 64, "optimize.adapters": "merged"})
    before, after = (stage_needs(config_facts(LLAMA), each, Machine(0, 2)) for each in (plain, merged))
    assert before["quantize"] == after["quantize"]
    assert after["optimize"].seconds > before["optimize"].seconds + before["quantize"].seconds
    floats = 2 * 134_515_008
    assert after["optimize"].disk > before["optimize"].disk + floats
    assert after["optimize"].ram >= before["quantize"].ram
