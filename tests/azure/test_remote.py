"""Runs on a machine of Azure ML: what goes up, the job's file, following it, faults, cancelling, and coming back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from core.azure.compute import Compute
from core.azure.retry import Stop
from core.azure.runs import Runs
from core.azure.signin import current
from core.azure.storage import Container
from core.azure.workspace import Place, Workspace
from core.cli import main
from core.errors import Cancelled, Do, LabError, MachineError, RequestError, StageError
from core.events import RecordingReporter
from core.lab import Lab
from core.remote import contents, follow, node, wheel
from core.remote import stage as remote
from core.remote.asked import RECORD, On, SentJob, handed_on, on, sent, sent_by
from core.remote.jobfile import JobFile, check_file, pinned, refuse_secret, text_of
from core.version import __version__
from tests.azure.conftest import World
from tests.azure.fake import SUBSCRIPTION
from tests.azure.labs import signed_in
from tests.azure.played import PlayedJob

PLACE = Place(SUBSCRIPTION, "rg-travel", "travel-ws")
FILES = {"config.json": b"{}", "weights": b"w" * 100}


def event(kind: str, **more: Any) -> str:
    return json.dumps({"v": 1, "t": "", "job": "quantize-001", "type": kind, **more})


TOLD = "\n".join(
    [
        "Collecting environment",
        event("state", state="running"),
        event("progress", phase="rounding", done=3, total=4, eta_s=1),
        event("metric", name="loss", step=2, value=0.5),
        event("log", level="warning", text="careful \x1b[31m"),
        event("state", state="succeeded"),
        "",
    ]
)


@pytest.fixture
def world(blobs: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    signed_in(blobs, monkeypatch)
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", "0.5")
    monkeypatch.setenv("PLAYED_PYTHON", sys.executable)
    blobs.fake.played.container = blobs.fake.make_container()
    yield blobs
    blobs.fake.played.close()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    values = {
        "upload.subscription": SUBSCRIPTION,
        "upload.resource_group": "rg-travel",
        "upload.workspace": "travel-ws",
        "upload.tags": {"team": "private"},
        "chat.system": "steps",
    }
    return Lab.create(tmp_path / "lab", settings=values)


def leave(
    world: World, out: str, stage: str = "quantize", files: dict[str, bytes] = FILES, **more: Any
) -> None:
    """A stage's result, as the machine leaves it."""
    place = f"made/{stage}-{'ab' * 8}"
    for name, data in files.items():
        world.fake.played.container.upload_blob(f"{out}/{place}/{name}", data, overwrite=True)
    told = {
        "folder": place,
        "result": {"bytes": 7},
        "files": {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()},
        **more,
    }
    world.fake.played.container.upload_blob(f"{out}/{stage}.json", json.dumps(told).encode(), overwrite=True)


def follower(world: World, job: PlayedJob, report: RecordingReporter, stop: Stop | None = None) -> Any:
    """Who looks after a job that is there already."""
    stop = stop or Stop()
    credential = current().credential
    workspace = Workspace(PLACE, credential, stop=stop)
    world.fake.played.jobs[job.name] = job
    there = SentJob(
        job.name, "key", ("quantize",), "gpu-cluster", SUBSCRIPTION, "rg-travel", "travel-ws",
        "workspaceblobstore", f"olivepress/runs/{job.name}",
    )  # fmt: skip
    container: Container = workspace.container(workspace.default_datastore())
    runs = Runs(credential, PLACE, stop, report.log)
    return follow.Follower(runs, container, there, "quantize", stop, report, lab=Path("/here")), there


def job(name: str, status: str = "Running", **more: Any) -> PlayedJob:
    return PlayedJob(name, {"properties": {}}, status, **more)


# What goes up


def test_what_goes_up_is_a_lab_of_its_own(lab: Lab) -> None:
    found = contents.collect(lab.folder, lab.recipe, ("quantize", "finetune"))
    names = {item.name: item for item in found.items}
    assert set(names) == {"lab/lab.toml", "lab/data/data_sample_travel.jsonl", wheel.NAME}
    text = names["lab/lab.toml"].data.decode()
    assert 'file = "data/data_sample_travel.jsonl"' in text
    assert SUBSCRIPTION not in text
    assert "private" not in text


def test_an_earlier_result_goes_up_where_it_is_started_from(lab: Lab) -> None:
    with pytest.raises(RequestError) as caught:
        contents.collect(lab.folder, lab.recipe, ("finetune",))
    assert caught.value.code == "remote.input"
    lab.folder.quantized_dir.mkdir(parents=True)
    (lab.folder.quantized_dir / "config.json").write_text("{}")
    names = {item.name for item in contents.collect(lab.folder, lab.recipe, ("finetune",)).items}
    assert "lab/models/quantized/config.json" in names


def test_a_model_that_lies_here_goes_up_and_a_link_out_of_it_does_not(lab: Lab, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    recipe = lab.recipe.with_values({"model.source": str(model)})
    found = contents.collect(lab.folder, recipe, ("quantize",))
    assert "model/model/config.json" in {item.name for item in found.items}
    (model / "secret").symlink_to("/etc/hostname")
    with pytest.raises(RequestError) as caught:
        contents.collect(lab.folder, recipe, ("quantize",))
    assert caught.value.code == "model.outside"


def test_the_key_is_of_the_work_and_not_of_what_is_done_of_it(lab: Lab) -> None:
    def key(**values: Any) -> str:
        settings = {name.replace("_", ".", 1): value for name, value in values.items()}
        return contents.key(lab.folder, lab.recipe.with_values(settings), lambda: None)

    assert key() == key() == key(upload_name="other")
    assert key() != key(finetune_rank=4)
    (lab.root / "data_sample_travel.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    assert key() != contents.key(Lab.create(lab.root / "x").folder, lab.recipe, lambda: None)


def test_the_wheel_is_the_same_each_time_and_has_the_program() -> None:
    made = wheel.own_wheel()
    wheel.own_wheel.cache_clear()
    assert made == wheel.own_wheel()
    with zipfile.ZipFile(BytesIO(made)) as archive:
        names = set(archive.namelist())
        record = archive.read(f"olivepress-{__version__}.dist-info/RECORD").decode()
    assert {"core/cli/run.py", "core/_data/data_sample_travel.jsonl", "tui/app.py"} <= names
    assert {line.split(",")[0] for line in record.splitlines()} == names
    assert not any("__pycache__" in name for name in names)


def test_packages_are_pinned_for_any_build_of_them() -> None:
    found = pinned()
    assert any(each.startswith("torch==") for each in found)
    assert not any("+" in each or "pytest" in each for each in found)


def test_the_options_of_a_job_say_where_it_runs() -> None:
    where = On("gpu-cluster", ("quantize", "finetune"), 3.0)
    assert on(where.option()) == where
    assert on({}) is None
    with pytest.raises(RequestError) as caught:
        on({"on": {"service": "elsewhere"}})
    assert caught.value.code == "remote.where"


def test_a_secret_in_a_setting_goes_nowhere() -> None:
    with pytest.raises(RequestError) as caught:
        refuse_secret("name: x?sig=abcdefgh%3D")
    assert caught.value.code == "remote.secret"


# The job's file


def test_a_dry_run_shows_the_file_the_cost_and_what_goes_up(
    world: World, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.set({"finetune.gpus": 4})
    words = [
        "run",
        str(lab.root),
        "--on",
        "azureml",
        "--compute",
        "spot",
        "--hours",
        "2",
        "--dry-run",
        "--json",
    ]
    assert main(words) == 0
    plan = json.loads(capsys.readouterr().out)
    file = yaml.safe_load(plan["file"])
    assert file["distribution"] == {"type": "pytorch", "process_count_per_instance": 1}
    assert file["limits"] == {"timeout": 7200}
    assert file["compute"] == "azureml:spot"
    assert file["outputs"]["lab"]["path"].endswith(plan["outputs"])
    assert (
        "olivepress run --from ${{inputs.lab}} --keep ${{outputs.lab}} quantize finetune optimize"
        in file["command"]
    )
    assert (plan["priority"], plan["gpus"], plan["cost_at_most"]) == (
        "low",
        4,
        pytest.approx(14.69 / 5 * 2, abs=0.01),
    )
    assert 0 < plan["bytes_to_send"] <= plan["bytes"]
    assert not world.fake.seen(method="PUT")
    assert "sig=" not in plan["file"]
    assert world.fake.client_secret not in plan["file"]
    assert not lab.jobs()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--compute", "nothing"), "azure.compute"),
        (("--compute", "gpu-cluster", "--gpus", "2"), "gpu.count"),
        (("--hours", "1"), "usage"),
        (("upload", "--compute", "gpu-cluster"), "usage"),
        (("--compute", "gpu-cluster", "--hours", "0"), "usage"),
    ],
)
def test_what_cannot_run_there_is_refused(
    world: World, lab: Lab, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: str
) -> None:
    assert main(["run", str(lab.root), "--on", "azureml", *words, "--dry-run", "--json"]) in (2, 4)
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_compute_without_quota_is_refused(
    world: World, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    world.fake.played.usages["Standard NCADSA100v4 Family Cluster Dedicated vCPUs"] = (0, 0)
    words = ["run", str(lab.root), "--on", "azureml", "--compute", "gpu-cluster", "--dry-run", "--json"]
    assert main(words) == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "azure.quota"


# Following one


def test_what_the_job_tells_is_told_here(world: World) -> None:
    report = RecordingReporter()
    one = job("told")
    who, there = follower(world, one, report)
    world.fake.played.write_log(one, TOLD)
    leave(world, there.out)
    made = who.follow()
    assert made.told["result"] == {"bytes": 7}
    assert report.metrics("loss") == [0.5]
    assert {"type": "progress", "phase": "rounding", "done": 3, "total": 4} in report.events
    said = [each["text"] for each in report.events if each["type"] == "log"]
    assert any("careful" in text and "\x1b" not in text for text in said)


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        ("Canceled", {}, "remote.cancelled"),
        ("Completed", {}, "remote.result"),
        ("Failed", {"code": "UserError", "message": "Image build failed: see the log"}, "remote.environment"),
        ("Failed", {"code": "ClusterCoreQuotaReached", "message": "no cores of the quota are left"}, "azure.quota"),
        ("Failed", {"code": "JobTimeout", "message": "exceeded its timeout sig=abcdefghijkl"}, "remote.hours"),
        ("Failed", {"code": "UserError", "message": "x", "innerError": {"code": "Other"}}, "remote.failed"),
    ],
)  # fmt: skip
def test_a_job_that_ends_otherwise_says_why(
    world: World, state: str, error: dict[str, Any], code: str
) -> None:
    one = job("ends", state, error={"error": error} if error else {})
    who, _ = follower(world, one, RecordingReporter())
    with pytest.raises(StageError) as caught:
        who.follow()
    assert caught.value.code == code
    assert "abcdefghijkl" not in str(caught.value)


def test_an_error_of_the_stage_is_the_same_error_here(world: World) -> None:
    said = MachineError(
        "The machine ran out of memory.", "x", ("Run ", Do.of("check", "/there")), code="machine.memory"
    )
    one = job("fails")
    who, _ = follower(world, one, RecordingReporter())
    world.fake.played.write_log(
        one, event("state", state="failed", error=said.as_dict(), exit_status=4) + "\n"
    )
    with pytest.raises(LabError) as caught:
        who.follow()
    assert caught.value.code == "machine.memory"
    assert "gpu-cluster" in caught.value.detail
    assert caught.value.hint == "Run olivepress check /here"


def test_a_job_that_is_gone(world: World) -> None:
    one = job("gone")
    who, _ = follower(world, one, RecordingReporter())
    world.fake.played.jobs.clear()
    with pytest.raises(StageError) as caught:
        who.follow()
    assert caught.value.code == "remote.gone"


def in_thread(act: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(act())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, found


class Watched(RecordingReporter):
    """Lets the test wait for what is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Condition()

    def log(self, text: str, level: str = "info") -> None:
        with self.heard:
            super().log(text, level)
            self.heard.notify_all()

    def wait_for(self, words: str) -> None:
        with self.heard:
            assert self.heard.wait_for(
                lambda: any(words in each.get("text", "") for each in self.events), 60
            ), self.events


def test_a_line_that_is_lost_and_back_loses_nothing(world: World) -> None:
    report, one = Watched(), job("lost")
    who, there = follower(world, one, report)
    fault = world.fake.fault(path="/jobs/", action="reset")
    thread, found = in_thread(who.follow)
    report.wait_for("goes on in Azure; it is asked after again")
    leave(world, there.out)
    world.fake.played.write_log(one, TOLD)
    fault.times = 0
    thread.join(60)
    assert found[0].told["result"] == {"bytes": 7}
    assert any("line to Azure is back" in each.get("text", "") for each in report.events)


def test_a_machine_that_is_taken_back_is_told_and_its_log_begins_anew(world: World) -> None:
    report, one = Watched(), job("spot")
    who, there = follower(world, one, report)
    world.fake.played.write_log(
        one, event("state", state="running") + "\nfirst machine, with a long line\n" * 20
    )
    thread, found = in_thread(who.follow)
    report.wait_for("first machine")
    one.status = "Queued"
    report.wait_for("taken back")
    world.fake.played.write_log(one, "second machine\n")
    one.status = "Running"
    report.wait_for("second machine")
    leave(world, there.out)
    world.fake.played.write_log(one, "second machine\n" + TOLD)
    thread.join(60)
    assert found[0].told["result"] == {"bytes": 7}


def test_a_token_that_ends_in_the_middle_says_that_the_job_goes_on(world: World) -> None:
    report, one = Watched(), job("token", "Queued")
    who, _ = follower(world, one, report)
    thread, found = in_thread(who.follow)
    report.wait_for("token: queued")
    world.fake.fault(path="/jobs/", status=401, code="ExpiredAuthenticationToken")
    thread.join(60)
    assert isinstance(found[0], MachineError)
    assert found[0].code == "azure.expired"
    assert "token goes on in Azure" in found[0].detail
    assert one.status == "Queued"


def test_a_log_at_a_stranger_is_not_read(world: World) -> None:
    runs = Runs(current().credential, PLACE, Stop(), print)
    with pytest.raises(StageError) as caught:
        runs.log("https://example.com/container/log?sig=x", 0)
    assert caught.value.code == "azure.stranger"
    assert "example.com" not in world.proxy.refused


# The whole of it, without a job here


def run(lab: Lab, folder: Path, report: RecordingReporter, **more: Any) -> remote.Brought:
    folder.mkdir(parents=True, exist_ok=True)
    where = On("gpu-cluster", ("quantize",))
    return remote.run(
        "quantize", where, lab.folder, lab.recipe, folder, report, force=more.get("force", False)
    )


def finishing(world: World) -> Callable[[PlayedJob], None]:
    def play(one: PlayedJob) -> None:
        out = one.properties["outputs"]["lab"]["uri"].split("/paths/")[1].rstrip("/")
        one.status = "Running"
        leave(world, out)
        world.fake.played.write_log(one, TOLD)
        one.status = "Completed"

    return play


def test_it_is_sent_followed_and_brought_back(world: World, lab: Lab) -> None:
    played = world.fake.played
    played.runs, played.plays = "canned", finishing(world)
    folder, report = lab.root / "jobs" / "quantize-001", RecordingReporter()
    brought = run(lab, folder, report)
    assert {path.name: path.read_bytes() for path in brought.folder.iterdir()} == FILES
    assert brought.unchanged
    (one,) = played.jobs.values()
    sent_file = yaml.safe_load((folder / "job.yml").read_text())
    assert one.name == sent_file["name"] == brought.sent.name
    assert not any("git" in key for key in one.properties.get("properties") or {})
    assert sent(lab.folder.state_dir / RECORD) == sent_by(folder) == brought.sent
    for path in folder.rglob("*"):
        assert world.fake.client_secret not in path.read_text()
        assert "sig=" not in path.read_text()
    # Whoever comes later follows the same job: what it has done is there.
    again = run(lab, lab.root / "jobs" / "quantize-002", report)
    assert again.sent == brought.sent
    assert len(played.jobs) == 1
    assert world.proxy.refused == []


def test_a_full_disk_sends_no_second_job(world: World, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    played = world.fake.played
    played.runs, played.plays = "canned", finishing(world)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=50))
        with pytest.raises(MachineError) as caught:
            run(lab, lab.root / "jobs" / "quantize-001", RecordingReporter())
    assert caught.value.code == "disk.full"
    brought = run(lab, lab.root / "jobs" / "quantize-002", RecordingReporter())
    assert {path.name: path.read_bytes() for path in brought.folder.iterdir()} == FILES
    assert len(played.jobs) == 1


def test_records_that_changed_while_the_job_was_away_are_told(world: World, lab: Lab) -> None:
    def play(one: PlayedJob) -> None:
        (lab.root / "data_sample_travel.jsonl").write_text('{"prompt": "new", "response": "work"}\n')
        finishing(world)(one)

    world.fake.played.runs, world.fake.played.plays = "canned", play
    assert not run(lab, lab.root / "jobs" / "quantize-001", RecordingReporter()).unchanged


def test_another_workspace_is_sent_a_job_of_its_own_and_the_first_is_named(world: World, lab: Lab) -> None:
    played = world.fake.played
    played.runs, played.plays = "canned", finishing(world)
    first = run(lab, lab.root / "jobs" / "quantize-001", RecordingReporter()).sent
    elsewhere = replace(first, workspace="old-ws", name="the-first")
    elsewhere.write(lab.root / "jobs" / "quantize-001", lab.folder)
    report = RecordingReporter()
    run(lab, lab.root / "jobs" / "quantize-002", report)
    assert len(played.jobs) == 2
    assert any("the-first was sent for this to workspace old-ws" in e.get("text", "") for e in report.events)


def test_the_rest_of_a_run_stays_in_its_workspace(world: World, lab: Lab) -> None:
    played = world.fake.played
    played.runs, played.plays = "canned", finishing(world)
    first = run(lab, lab.root / "jobs" / "quantize-001", RecordingReporter()).sent
    leave(world, first.out, "finetune", FILES)
    lab.set({"upload.workspace": "another-ws"})
    folder = lab.root / "jobs" / "finetune-001"
    folder.mkdir(parents=True)
    where = On("gpu-cluster", ("quantize", "finetune"), job=first.name)
    brought = remote.run("finetune", where, lab.folder, lab.recipe, folder, RecordingReporter(), force=False)
    assert brought.sent.name == first.name
    assert not world.fake.seen(path="/workspaces/another-ws")


@pytest.mark.parametrize(
    "name", ["Reise & «Übung» #1", "a: {b} [c] ${{inputs.no}} %s", "x" * 200, "日本語 'lab'"]
)
def test_a_lab_of_any_name_makes_a_file_that_is_taken(name: str, tmp_path: Path) -> None:
    machine = Compute("gpu-cluster", "cluster", "Standard_NC24ads_A100_v4", "Succeeded", gpus=1)
    document = JobFile(
        "job", name, ("quantize",), machine, "azureml://in", "azureml://out", 1.0, 1
    ).document()
    path = tmp_path / "job.yml"
    path.write_text(text_of(document), encoding="utf-8")
    check_file(path, document)
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == document


def test_a_stop_here_ends_the_job_there(world: World, lab: Lab) -> None:
    report = Watched()
    folder = lab.root / "jobs" / "quantize-001"
    thread, found = in_thread(lambda: run(lab, folder, report))
    report.wait_for(": queued")
    assert any(each.get("phase") == "waiting for a machine of gpu-cluster" for each in report.events)
    report.cancelled = True
    thread.join(60)
    assert isinstance(found[0], Cancelled)
    (one,) = world.fake.played.jobs.values()
    assert one.status == "Canceled"
    assert any("told to end" in each.get("text", "") for each in report.events)


def test_the_next_stage_follows_the_same_job(lab: Lab, tmp_path: Path) -> None:
    where = On("gpu-cluster", ("quantize", "finetune"))
    there = SentJob("n", "k", where.stages, "gpu-cluster", "s", "g", "w", "store", "out")
    there.write(tmp_path, lab.folder)
    assert on(handed_on(where.option(), tmp_path)) == On("gpu-cluster", where.stages, where.hours, "n")
    assert handed_on({}, tmp_path) == {}


def test_what_came_back_damaged_is_not_taken(world: World, lab: Lab) -> None:
    played = world.fake.played

    def play(one: PlayedJob) -> None:
        finishing(world)(one)
        out = one.properties["outputs"]["lab"]["uri"].split("/paths/")[1].rstrip("/")
        played.container.upload_blob(f"{out}/made/quantize-{'ab' * 8}/weights", b"x" * 100, overwrite=True)

    played.runs, played.plays = "canned", play
    with pytest.raises(StageError) as caught:
        run(lab, lab.root / "jobs" / "quantize-001", RecordingReporter())
    assert caught.value.code == "fetch.damaged"
    assert not list(lab.folder.models_dir.glob(".fetched-*"))


def test_a_job_whose_follower_is_gone_says_how_to_follow_it(lab: Lab) -> None:
    folder = lab.root / "jobs" / "quantize-001"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text("{}")
    there = SentJob("name-there", "k", ("quantize",), "gpu-cluster", "s", "g", "w", "store", "out")
    there.write(folder, lab.folder)
    gone = lab.job("quantize")
    assert gone.state == "crashed"
    error = gone.error()
    assert error is not None
    assert "name-there goes on in Azure" in error.hint
    assert "run" in error.hint
    assert "--on azureml --compute gpu-cluster" in error.hint


def test_a_model_of_a_catalogue_may_lie_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "data" / "model" / "deeper").mkdir(parents=True)
    for name in ("data/model/config.json", "data/model/deeper/config.json"):
        (tmp_path / name).write_text("{}")
    assert node._model_in(tmp_path) == tmp_path / "data" / "model"
    assert node._model_in(tmp_path / "data" / "model" / "deeper" / "none") != tmp_path


def test_what_is_kept_is_taken_up_by_the_next_machine(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    source, keep = tmp_path / "in", tmp_path / "kept"
    for item in contents.collect(lab.folder, lab.recipe, ("quantize", "finetune")).items:
        place = source / item.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(item.data or (item.path or Path()).read_bytes())
    first = node.Node.begin(source, keep, ("quantize", "finetune"))
    assert "RANK" not in os.environ
    checkpoint = first.lab.checkpoints_dir("travel") / "last.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"step 10")
    first.lab.quantized_dir.mkdir(parents=True)
    (first.lab.quantized_dir / "weights").write_bytes(b"w")
    (first.lab.quantized_dir / "olivepress.json").write_text("{}")
    first.keep_result("quantize", {"bytes": 1}, 1.0, {})
    second = node.Node.begin(source, keep, ("quantize", "finetune"))
    assert checkpoint.read_bytes() == b"step 10"
    assert (second.lab.quantized_dir / "weights").read_bytes() == b"w"
    # What is not whole is not taken up; a checkpoint that is gone is forgotten.
    next(keep.glob("made/*/weights")).write_bytes(b"")
    checkpoint.unlink()
    second.keep_checkpoints()
    third = node.Node.begin(source, keep, ("quantize", "finetune"))
    assert not third.lab.quantized_dir.exists()
    assert not checkpoint.exists()
