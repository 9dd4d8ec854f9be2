"""Uploading: what arrives, what is sent again, what is registered, and how it ends on a bad day."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core.azure.retry import Stop
from core.errors import Cancelled, LabError, MachineError, RequestError, StageError
from core.events import RecordingReporter, Reporter
from core.files import MANIFEST, read_json, write_json
from core.lab import Lab
from core.optimize.stage import checkpoint_stamp
from core.stage_context import StageContext
from core.upload.stage import dry_run, upload
from tests.azure.conftest import World
from tests.azure.labs import MIB, make_lab, signed_in
from tests.recipes import settled
from tests.waiting import soon, until

SIZES = {
    "model.onnx": 300_000,
    "model.onnx.data": 9 * MIB + 7,
    "tokenizer/empty.txt": 0,
    "sub/middle.bin": 2 * MIB,
}


@pytest.fixture
def world(blobs: World, monkeypatch: pytest.MonkeyPatch) -> World:
    signed_in(blobs, monkeypatch)
    return blobs


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path / "lab", SIZES, seed=time.time_ns())


def send(lab: Lab, **settings: Any) -> dict[str, Any]:
    recipe = lab.recipe.with_values({f"upload.{key}": value for key, value in settings.items()})
    return upload(lab.folder, recipe, RecordingReporter(), Stop())


def stage(lab: Lab, report: Reporter) -> dict[str, Any]:
    from core.upload import stage as module

    return module.run(
        StageContext(lab.folder, settled({}, base=lab.recipe), report, lab.root / "work", {}, {})
    )


def in_storage(world: World, prefix: str) -> dict[str, bytes]:
    client = world.fake.make_container()
    found = client.list_blobs(name_starts_with=prefix)
    return {blob.name.removeprefix(prefix + "/"): client.download_blob(blob.name).readall() for blob in found}


@pytest.mark.parametrize("since", [False, True], ids=["as it was", "quantized anew since"])
def test_the_model_says_how_it_was_made_and_not_what_recipe_or_folders_say_now(
    world: World, lab: Lab, since: bool
) -> None:
    folder = lab.folder
    folder.quantized_dir.mkdir(parents=True, exist_ok=True)
    quantized = {"fingerprint": {"quantize": {"algorithm": "gptq"}}, "model": {"source": "org/made-from"}}
    write_json(folder.quantized_dir / MANIFEST, quantized)
    onnx = read_json(folder.onnx_dir / MANIFEST) or {}
    onnx["result"] = {**(onnx.get("result") or {}), "device": "cuda", "precision": "fp16"}
    onnx["fingerprint"] = {
        **onnx.get("fingerprint", {}),
        "base": {"checkpoint": checkpoint_stamp(folder.quantized_dir)},
    }
    onnx["model"] = {"source": "org/made-from"}
    write_json(folder.onnx_dir / MANIFEST, onnx)
    if since:
        other = {"fingerprint": {"quantize": {"algorithm": "rtn"}}, "model": {"source": "org/another"}}
        write_json(folder.quantized_dir / MANIFEST, other)
    send(lab)
    said = world.fake.models["ft-for-travel"]["1"]["properties"]
    made = ("base_model", "algorithm", "device", "precision")
    how = "unknown" if since else "gptq"
    assert [said["tags"][key] for key in made] == ["org/made-from", how, "cuda", "fp16"]
    assert f"org/made-from, {how}" in said["description"]


def test_the_loss_of_an_adapter_that_was_trained_anew_since_is_not_told(world: World, lab: Lab) -> None:
    adapter = lab.folder.finetuned_dir("travel")
    adapter.mkdir(parents=True, exist_ok=True)
    write_json(adapter / MANIFEST, {"fingerprint": {"records": "now"}, "result": {"eval_loss_tuned": 0.5}})
    onnx = read_json(lab.folder.onnx_dir / MANIFEST) or {}
    onnx["fingerprint"] = {**onnx.get("fingerprint", {}), "adapter": "travel", "adapter_stamp": "of before"}
    write_json(lab.folder.onnx_dir / MANIFEST, onnx)
    send(lab)
    said = world.fake.models["ft-for-travel"]["1"]["properties"]["properties"]
    assert not {"olivepress.eval_loss", "olivepress.data"} & set(said)


def test_every_byte_arrives_and_the_model_says_what_it_is(world: World, lab: Lab) -> None:
    result = send(lab)
    there = in_storage(world, result["uri"].split("/paths/")[1])
    local = {
        path.relative_to(lab.folder.onnx_dir).as_posix(): path.read_bytes()
        for path in lab.folder.onnx_dir.rglob("*")
        if path.is_file()
    }
    recipe = there.pop("lab.toml").decode()
    assert there.pop("report.md").decode() == "# lab\n\nWritten by OlivePress.\n"
    assert there == local, "ignore files drop nothing"
    assert "travel-ws" not in recipe
    assert result["files"] == len(local) + 2
    assert result["bytes_sent"] == result["bytes"] > sum(map(len, local.values()))
    assert (result["name"], result["version"]) == ("ft-for-travel", "1")
    said = world.fake.models["ft-for-travel"]["1"]["properties"]
    assert said["tags"]["algorithm"] == "awq+gptq"
    assert said["tags"]["adapter"] == "travel"
    assert said["tags"]["base_model"] == "rehearsal"
    assert said["properties"]["olivepress.eval_loss"] == "1.25"
    assert said["properties"]["olivepress.data"] == "d" * 64
    assert json.loads(said["properties"]["olivepress.packages"]) == {"peft": "0.21.2"}
    assert result["id"].endswith("/workspaces/travel-ws/models/ft-for-travel/versions/1")
    assert result["url"].startswith("https://ml.azure.com/model/ft-for-travel:1/details?wsid=/subscriptions/")
    assert lab.recipe.upload.registered == "ft-for-travel:1"
    assert "ft-for-travel" in lab.folder.report_path.read_text()
    assert world.proxy.refused == [], "no other host was asked for"


def test_the_same_content_again_sends_nothing(world: World, lab: Lab) -> None:
    first = send(lab)
    world.fake.requests.clear()
    again = send(lab)
    assert again["bytes_sent"] == 0
    assert again["version"] == first["version"]
    assert not world.fake.seen(host="blob", method="PUT")
    assert len(world.fake.models["ft-for-travel"]) == 1


def test_other_content_takes_the_next_free_version(world: World, lab: Lab) -> None:
    send(lab)
    (lab.folder.onnx_dir / "model.onnx").write_bytes(b"other")
    assert send(lab)["version"] == "2"


def edit_recipe(lab: Lab) -> None:
    lab.set({"chat.max_new_tokens": 99})


def rename(lab: Lab) -> None:
    lab.set({"upload.name": "other-name"})


def add_file(lab: Lab) -> None:
    (lab.folder.onnx_dir / "new.txt").write_text("new")


@pytest.mark.parametrize("change", [edit_recipe, rename, add_file])
@pytest.mark.parametrize("kind", ["Sas", "AccountKey", "None"])
def test_what_was_sent_is_not_sent_again_after_a_small_change(
    world: World, lab: Lab, change: Any, kind: str
) -> None:
    world.fake.credentials_type = kind
    first = send(lab)
    change(lab)
    plan = dry_run(lab.folder, lab.recipe, RecordingReporter(), Stop())
    world.fake.requests.clear()
    again = send(lab)
    assert again["bytes_sent"] == plan["bytes_to_send"] < MIB, "only what is small goes over the line"
    assert world.fake.blocks() == []
    assert again["uri"] != first["uri"]
    there = in_storage(world, again["uri"].split("/paths/")[1])
    assert there["model.onnx.data"] == (lab.folder.onnx_dir / "model.onnx.data").read_bytes()
    assert len(there) == again["files"]


def test_a_copy_that_the_storage_refuses_is_sent(world: World, lab: Lab) -> None:
    send(lab)
    edit_recipe(lab)
    world.fake.copies = False
    result = send(lab)
    assert result["bytes_sent"] > 11 * MIB
    there = in_storage(world, result["uri"].split("/paths/")[1])
    assert there["sub/middle.bin"] == (lab.folder.onnx_dir / "sub/middle.bin").read_bytes()


def test_a_broken_upload_goes_on_by_block_after_a_small_change(world: World, lab: Lab) -> None:
    fault = world.fake.fault(
        host="blob", method="PUT", path="model.onnx.data.*comp=block(&|$)", action="reset", skip=2
    )
    with pytest.raises(StageError, match="line to Azure broke"):
        send(lab, concurrency=1)
    world.fake.faults.remove(fault)
    edit_recipe(lab)
    world.fake.requests.clear()
    result = send(lab)
    assert len([block for block in world.fake.blocks() if "model.onnx.data" in block]) == 1, "of three"
    there = in_storage(world, result["uri"].split("/paths/")[1])
    assert there["model.onnx.data"] == (lab.folder.onnx_dir / "model.onnx.data").read_bytes()


def test_tags_that_are_edited_afterwards_are_applied(world: World, lab: Lab) -> None:
    first = send(lab)
    lab.set({"upload.tags": {"team": "travel"}})
    again = send(lab)
    assert (again["version"], again["bytes_sent"]) == (first["version"], 0)
    said = world.fake.models["ft-for-travel"]["1"]["properties"]
    assert said["tags"]["team"] == "travel"
    assert said["tags"]["adapter"] == "travel"
    assert said["properties"]["olivepress.content"], "what it holds is still said"
    world.fake.requests.clear()
    send(lab)
    assert not world.fake.seen(host="management", method="PUT"), "the same tags are not written again"


def test_the_right_to_register_is_asked_for_before_the_first_byte(world: World, lab: Lab) -> None:
    world.fake.actions = ["*/read"]
    ends_with_a_sentence(world, lab, MachineError, "You have no right to register a model in the workspace.")
    assert not world.fake.seen(host="blob", method="PUT")


@pytest.mark.parametrize("version", ["latest", "LATEST", "a b"])
def test_a_version_that_nobody_could_ask_for_is_refused(world: World, lab: Lab, version: str) -> None:
    with pytest.raises(RequestError, match="not a version that Azure ML takes"):
        send(lab, version=version)
    assert world.fake.requests == []


def test_the_longest_name_that_every_system_holds_is_sent(world: World, lab: Lab) -> None:
    (lab.folder.onnx_dir / ("n" * 255)).write_text("x")
    assert send(lab)["version"] == "1"


@pytest.mark.parametrize("name", ["a:b", "a\\b", "con.txt"])
def test_a_file_that_another_system_cannot_hold_is_refused_before_anything_is_sent(
    world: World, lab: Lab, name: str
) -> None:
    (lab.folder.onnx_dir / name).write_text("x")
    with pytest.raises(RequestError, match="not every system can hold"):
        send(lab)
    assert world.fake.requests == []


def test_a_version_that_is_taken_is_refused_before_anything_is_sent(world: World, lab: Lab) -> None:
    send(lab, version="7")
    assert send(lab, version="7")["bytes_sent"] == 0, "the same content under the same version is done"
    (lab.folder.onnx_dir / "model.onnx").write_bytes(b"other")
    world.fake.requests.clear()
    with pytest.raises(RequestError) as caught:
        send(lab, version="7")
    assert caught.value.title == "Version 7 of ft-for-travel exists already, with other content."
    assert 'upload.version to ""' in caught.value.hint
    assert not world.fake.seen(host="blob", method="PUT")


def test_somebody_takes_the_version_in_between(world: World, lab: Lab) -> None:
    class Meanwhile(RecordingReporter):
        def progress(self, phase: str, done: float, total: float | None) -> None:
            if phase == "registering" and "ft-for-travel" not in world.fake.models:
                other = {"modelUri": "azureml://x", "properties": {}, "tags": {}, "flavors": {}}
                made = {"id": "x", "name": "1", "properties": other, "systemData": {}}
                world.fake.models["ft-for-travel"] = {"1": made}

    result = upload(lab.folder, lab.recipe, Meanwhile(), Stop())
    assert result["version"] == "2"


@pytest.mark.parametrize("name", ["has space", "slash/es", "-dash", "ünï", "a" * 256])
def test_a_name_that_azure_does_not_take(world: World, lab: Lab, name: str) -> None:
    with pytest.raises(RequestError, match="not a name that Azure ML takes"):
        send(lab, name=name)
    assert world.fake.requests == []


def test_a_dry_run_says_all_and_sends_nothing(world: World, lab: Lab) -> None:
    plan = dry_run(lab.folder, lab.recipe, RecordingReporter(), Stop())
    assert plan["bytes_to_send"] == plan["bytes"] > 11 * MIB
    assert plan["version"] == "1"
    assert plan["rights"] == {"storage": "yes", "register": "yes"}
    assert {"name": "model.onnx", "bytes": 300_000} in plan["contents"]
    assert not world.fake.seen(host="blob", method="PUT")
    assert world.fake.models == {}
    world.fake.actions = ["*/read"]
    with pytest.raises(MachineError, match="no right to register a model"):
        dry_run(lab.folder, lab.recipe, RecordingReporter(), Stop())


@pytest.mark.parametrize(("kind", "secret"), [("AccountKey", True), ("None", False)])
def test_each_kind_of_datastore_access(world: World, lab: Lab, kind: str, secret: bool) -> None:
    world.fake.credentials_type = kind
    result = send(lab)
    assert result["bytes_sent"] == result["bytes"]
    assert bool(world.fake.seen(path="listSecrets")) == secret


def test_without_the_right_to_the_datastores_secrets_the_users_own_is_used(world: World, lab: Lab) -> None:
    world.fake.fault(path="listSecrets", status=403, code="AuthorizationFailed")
    assert send(lab)["version"] == "1"


def test_a_signature_that_ends_midway_is_renewed(world: World, lab: Lab) -> None:
    world.fake.fault(host="blob", method="PUT", status=403, code="AuthenticationFailed", times=1, skip=3)
    world.fake.sas_seconds = 200  # shorter than the time before its end at which it is renewed
    result = send(lab)
    assert result["bytes_sent"] == result["bytes"]
    assert len(world.fake.seen(path="listSecrets")) > 1


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "code": "ServerBusy", "times": 3},
        {"status": 500, "code": "InternalError", "times": 2},
        {"status": 429, "code": "TooManyRequests", "times": 1, "headers": {"Retry-After": "1"}},
        {"action": "reset", "times": 3},
    ],
    ids=["503", "500", "429", "reset"],
)
def test_a_fault_that_passes_is_waited_out(world: World, lab: Lab, fault: dict[str, Any]) -> None:
    world.fake.fault(host="blob", method="PUT", **fault)
    began = time.monotonic()
    result = send(lab)
    assert result["bytes_sent"] == result["bytes"]
    assert time.monotonic() - began >= float(fault.get("headers", {}).get("Retry-After", 0))


BLOB_DAYS: dict[str, tuple[dict[str, Any], type[LabError], str]] = {
    "no rights": ({"status": 403, "code": "AuthorizationPermissionMismatch"}, MachineError,
                  "You have no right to the workspace's storage."),
    "firewall": ({"status": 403, "code": "AuthorizationFailure"}, MachineError,
                 "The storage account does not let this machine in (firewall)."),
    "no keys": ({"status": 403, "code": "KeyBasedAuthenticationNotPermitted"}, MachineError,
                "The storage account takes no keys, only signed-in users."),
    "signature refused": ({"status": 403, "code": "AuthenticationFailed"}, MachineError,
                          "The storage did not accept our access (expired or withdrawn)."),
    "container gone": ({"status": 404, "code": "ContainerNotFound"}, RequestError,
                       "The workspace's storage container is gone."),
    "500 for ever": ({"status": 500, "code": "InternalError"}, StageError, "Azure has a fault of its own."),
    "429 for long": ({"status": 429, "code": "TooMany", "headers": {"Retry-After": "600"}}, StageError,
                     "Azure is busy and asks us to wait 10 minutes."),
    "changed": ({"status": 412, "code": "ConditionNotMet"}, StageError,
                "A file in the storage was changed in the meantime."),
    "blocks lost": ({"status": 400, "code": "InvalidBlockList", "path": "comp=blocklist"}, StageError,
                    "The storage has lost or replaced blocks of a file that is being sent."),
    "unknown": ({"status": 400, "code": "Strange"}, StageError, "Azure refused the request."),
    "reset": ({"action": "reset"}, StageError, "The line to Azure broke."),
    "silence": ({"action": "silence"}, StageError, "Azure does not answer."),
    "drip": ({"action": "drip"}, StageError, "Azure does not answer."),
}  # fmt: skip


@pytest.mark.parametrize("day", BLOB_DAYS)
def test_bad_days_of_the_storage(world: World, lab: Lab, day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, kind, sentence = BLOB_DAYS[day]
    monkeypatch.setattr("core.azure.transport.SLOWEST", 1 << 30)
    world.fake.fault(host="blob", method="PUT", **fault)
    error = ends_with_a_sentence(world, lab, kind, sentence)
    assert "<" not in str(error), "no page of XML"


ARM_DAYS: dict[str, tuple[dict[str, Any], type[LabError], str]] = {
    "expired": ({"status": 401, "code": "ExpiredAuthenticationToken"}, MachineError, "Your Azure sign-in has expired."),
    "wrong tenant": (
        {"status": 401, "code": "InvalidAuthenticationTokenTenant",
         "message": "wrong issuer 'https://sts.windows.net/11111111-1111-1111-1111-111111111111/'. It must match "
                    "the tenant 'https://sts.windows.net/99999999-9999-9999-9999-999999999999/'"},
        MachineError, "You are signed in to another tenant than the workspace's."),
    "401": ({"status": 401, "code": "Other"}, MachineError, "Azure did not accept the sign-in."),
    "no right": ({"status": 403, "code": "AuthorizationFailed"}, MachineError,
                 "You have no right to do this in the workspace."),
    "403": ({"status": 403, "code": "Other"}, MachineError, "Azure refuses this to you."),
    "no subscription": ({"status": 404, "code": "SubscriptionNotFound"}, RequestError,
                        "There is no such subscription, or you cannot see it."),
    "no group": ({"status": 404, "code": "ResourceGroupNotFound"}, RequestError, "There is no such resource group."),
    "500 for ever": ({"status": 500, "code": "InternalServerError"}, StageError, "Azure has a fault of its own."),
    "429 for long": ({"status": 429, "code": "TooMany", "headers": {"Retry-After": "600"}}, StageError,
                     "Azure is busy and asks us to wait 10 minutes."),
    "reset": ({"action": "reset"}, StageError, "The line to Azure broke."),
    "silence": ({"action": "silence"}, StageError, "Azure does not answer."),
    "drip at the end": ({"method": "PUT", "action": "drip"}, StageError, "Azure does not answer."),
}  # fmt: skip


@pytest.mark.parametrize("day", ARM_DAYS)
def test_bad_days_of_resource_manager(world: World, lab: Lab, day: str) -> None:
    fault, kind, sentence = ARM_DAYS[day]
    world.fake.fault(host="management", **fault)
    ends_with_a_sentence(world, lab, kind, sentence)


def test_the_hint_for_a_wrong_tenant_names_the_right_one(world: World, lab: Lab) -> None:
    fault, kind, sentence = ARM_DAYS["wrong tenant"]
    world.fake.fault(host="management", **fault)
    error = ends_with_a_sentence(world, lab, kind, sentence)
    assert error.hint == "Run: olivepress login --tenant 99999999-9999-9999-9999-999999999999"


def ends_with_a_sentence(world: World, lab: Lab, kind: type[LabError], sentence: str) -> LabError:
    with soon(), pytest.raises(kind) as caught:
        send(lab)
    assert caught.value.title == sentence
    assert caught.value.hint
    assert world.fake.models == {}, "nothing is registered"
    assert "planted" not in str(caught.value)
    assert "sig=" not in str(caught.value).replace("sig=***", "")
    return caught.value


def test_a_workspace_that_is_gone(world: World, lab: Lab) -> None:
    world.fake.workspaces.clear()
    ends_with_a_sentence(world, lab, RequestError, "There is no such workspace.")


def test_nothing_chosen_nothing_made(world: World, tmp_path: Path) -> None:
    bare = Lab.create(tmp_path / "bare")
    with pytest.raises(RequestError, match="No workspace is chosen"):
        send(bare)
    bare.set({"upload.subscription": "s", "upload.resource_group": "g", "upload.workspace": "w"})
    with pytest.raises(RequestError, match="nothing to upload yet"):
        send(bare)


def test_not_signed_in(world: World, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    error = ends_with_a_sentence(world, lab, MachineError, "You are not signed in to Azure.")
    assert error.hint == "Run: olivepress login"


def test_registration_that_fails_sends_nothing_the_next_time(world: World, lab: Lab) -> None:
    world.fake.fault(method="PUT", host="management", status=500, code="InternalServerError")
    with pytest.raises(StageError, match="fault of its own"):
        send(lab)
    world.fake.faults.clear()
    assert send(lab)["bytes_sent"] == 0
    assert list(world.fake.models["ft-for-travel"]) == ["1"]


def test_a_lost_answer_to_the_registration_is_not_a_failure(world: World, lab: Lab) -> None:
    """The service registers, and the line breaks before it can say so."""
    original = world.fake.__class__

    class Meanwhile(RecordingReporter):
        def progress(self, phase: str, done: float, total: float | None) -> None:
            if phase == "registering":
                world.fake.fault(
                    method="GET", host="management", path=r"versions/1\?", action="reset", times=1
                )

    assert upload(lab.folder, lab.recipe, Meanwhile(), Stop())["version"] == "1"
    assert isinstance(world.fake, original)


def test_a_broken_upload_goes_on_by_block(world: World, lab: Lab) -> None:
    fault = world.fake.fault(
        host="blob", method="PUT", path="model.onnx.data.*comp=block(&|$)", action="reset", skip=2
    )
    with pytest.raises(StageError, match="line to Azure broke"):
        send(lab, concurrency=1)
    first = world.fake.blocks()
    assert len(first) == 2
    world.fake.faults.remove(fault)
    result = send(lab)
    assert len(set(world.fake.blocks())) == len(world.fake.blocks()), "no block goes twice"
    assert result["bytes_sent"] == result["bytes"] - 2 * 4 * MIB
    name = result["uri"].split("/paths/")[1]
    assert (
        in_storage(world, name)["model.onnx.data"] == (lab.folder.onnx_dir / "model.onnx.data").read_bytes()
    )


def test_an_upload_that_broke_before_the_last_word_of_a_file_goes_on(world: World, lab: Lab) -> None:
    """Every block has arrived, and the list that makes them a file has not."""
    fault = world.fake.fault(host="blob", method="PUT", path="comp=blocklist", action="reset")
    with pytest.raises(StageError, match="line to Azure broke"):
        send(lab)
    world.fake.faults.remove(fault)
    world.fake.requests.clear()
    send(lab)
    assert world.fake.blocks() == []
    assert list(world.fake.models["ft-for-travel"]) == ["1"]


def test_a_file_that_goes_away_or_changes_is_told(world: World, lab: Lab) -> None:
    victim = lab.folder.onnx_dir / "model.onnx.data"

    class Meanwhile(RecordingReporter):
        def __init__(self, act: Any) -> None:
            super().__init__()
            self.act = act

        def progress(self, phase: str, done: float, total: float | None) -> None:
            if phase == "upload" and self.act:
                act, self.act = self.act, None
                act()

    with pytest.raises(StageError) as caught:
        upload(lab.folder, lab.recipe, Meanwhile(lambda: victim.write_bytes(b"x" * (6 * MIB))), Stop())
    assert caught.value.title == "A file changed while it was being sent."
    with pytest.raises(StageError) as caught:
        upload(lab.folder, lab.recipe, Meanwhile(victim.unlink), Stop())
    assert caught.value.title == "A file of the model cannot be read any more."
    assert "what has arrived is kept" in caught.value.hint
    assert world.fake.models == {}


def test_silence_is_a_line_that_counts_down(world: World, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.azure.retry.QUIET", 0.2)
    world.fake.fault(host="blob", method="PUT", action="silence")
    report = RecordingReporter()
    with pytest.raises(StageError, match="does not answer"):
        stage(lab, report)
    told = [event["phase"] for event in report.events if event.get("phase", "").startswith("waiting for")]
    left = [int(phase.rsplit(", ", 1)[1].split()[0]) for phase in told]
    assert left == sorted(left, reverse=True)
    assert len(set(left)) > 1
    assert max(left) <= 3


@pytest.mark.parametrize("where", ["a block on the line", "a silent host"])
def test_cancel_is_obeyed_within_a_second(
    world: World, lab: Lab, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", "60")
    if where == "a silent host":
        world.fake.fault(host="blob", method="PUT", action="silence")
    else:
        world.proxy.rate = 200_000.0
    report = RecordingReporter()

    def press() -> None:
        until(lambda: any(event.get("phase") == "upload" for event in report.events))
        until(lambda: where == "a silent host" or world.fake.seen(host="blob", method="PUT"))
        report.cancelled = True

    threading.Thread(target=press, daemon=True).start()
    try:
        with soon(), pytest.raises(Cancelled):
            stage(lab, report)
    finally:
        world.proxy.rate = None
    assert world.fake.models == {}


def test_nothing_secret_is_told(world: World, lab: Lab, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(logging.DEBUG)
    world.fake.credentials_type = "Sas"
    world.fake.fault(
        host="blob", method="PUT", status=503, code="ServerBusy", times=2, headers={"Retry-After": "1"}
    )
    report = RecordingReporter()
    stage(lab, report)
    from tests.azure.azurite import KEY

    events = json.dumps(report.events)
    told = events + caplog.text + "".join(capfd.readouterr()) + lab.folder.report_path.read_text()
    told += "".join(p.read_text() for p in (lab.root / ".olivepress").glob("*"))
    for secret in ("planted", KEY, "eyJ"):
        assert secret not in told, secret
    assert "sig=" not in told.replace("sig=***", "").replace("sig=REDACTED", "")
    assert "progress" in events
    assert "Azure has a fault of its own. Trying again in 1 s." in events, "the log has its retries"


def test_memory_stays_below_200_mb(world: World, tmp_path: Path) -> None:
    import subprocess
    import sys

    lab = make_lab(tmp_path / "big", {"model.onnx.data": 96 * MIB, **{f"s/{i}": 100_000 for i in range(40)}})
    code = (
        "import sys\nfrom pathlib import Path\nfrom core.lab import Lab\nfrom core.events import Reporter\n"
        "from core.azure.retry import Stop\nfrom core.upload.stage import upload\n"
        "lab = Lab.open(sys.argv[1])\nupload(lab.folder, lab.recipe, Reporter(), Stop())\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(lab.root)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1]) * 1024
    assert peak < 200e6
    assert os.path.exists(lab.folder.report_path)
