"""The parts that need no service: redaction, waiting, access, errors of the line, what is collected."""

from __future__ import annotations

import dataclasses
import socket
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from core.azure.download import recipe_from_elsewhere
from core.azure.errors import redact
from core.azure.retry import Stop, retried, retry_after, retry_limit
from core.azure.storage import Access
from core.azure.workspace import Datastore, Place, Workspace
from core.errors import LabError, MachineError, RequestError
from core.files import MANIFEST
from core.lab import Lab
from core.recipe import Recipe, recipe_text
from core.upload.contents import Item, collect, described
from core.upload.sender import BLOCK, MAX_BLOCKS, block_id, block_size
from tests.azure.azurite import KEY
from tests.azure.conftest import World
from tests.azure.labs import make_lab, signed_in
from tests.waiting import soon


@pytest.mark.parametrize(
    "text",
    [
        "https://a.blob.core.windows.net/c/b?sv=2025&sp=rw&sig=planted%2Bsecret%3D&se=2026",
        '{"access_token": "planted-token", "expires_in": 1}',
        "grant_type=device_code&device_code=planted&client_secret=planted-too",
        "Authorization: Bearer planted.token.value-1234",
        "Authorization: SharedKey account:plantedplantedplanted=",
        "token eyJhbGciOiJub25lIn0.eyJzdWIiOiJwbGFudGVkIn0.plantedsig",
        "'sasToken': 'planted&sig=planted'",
        '"sasUri":"https://a/c?planted"',
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    assert "planted" not in redact(text)
    assert "***" in redact(text)


def test_an_account_key_alone_is_taken_out_and_a_digest_stays() -> None:
    assert KEY not in redact(f"key {KEY} end")
    digest = "a3" * 32
    assert redact(f"sha256 {digest}, file model.onnx.data") == f"sha256 {digest}, file model.onnx.data"


def test_waits_that_a_service_asks_for() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"x-ms-retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    date = retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert date is not None
    assert 25 < date <= 30
    assert retry_after({"retry-after": formatdate(time.time() - 60, usegmt=True)}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


@pytest.mark.parametrize(
    ("value", "seconds"), [("", 120), ("nan?", 120), ("5", 5), ("-1", 0.5), ("1e9", 3600)]
)
def test_patience_is_always_a_limit(monkeypatch: pytest.MonkeyPatch, value: str, seconds: float) -> None:
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", value)
    assert retry_limit() == seconds


def test_a_stop_ends_a_pause_at_once() -> None:
    from azure.core.exceptions import ServiceRequestError

    stop = Stop()

    def fails() -> None:
        stop.set()
        raise ServiceRequestError("connection reset")

    with soon(), pytest.raises(LabError, match="Cancelled"):
        retried(fails, "x", stop=stop, limit=60)


def test_when_a_signature_ends() -> None:
    assert Access("sas", "sv=1&se=2026-11-20T10%3A00%3A00Z&sig=x").ends() == 1795168800
    assert Access("sas", "sv=1&sig=x").ends() is None
    assert "sig" not in repr(Access("sas", "sv=1&sig=x"))


def test_blocks_fit_the_services_limits_and_depend_on_the_size_alone() -> None:
    assert block_size(1) == block_size(BLOCK * MAX_BLOCKS) == BLOCK
    for size in (BLOCK * MAX_BLOCKS + 1, 10**12):
        assert -(-size // block_size(size)) <= MAX_BLOCKS
    one, other = Item("a", BLOCK, "a" * 64), Item("a", BLOCK, "b" * 64)
    assert len({len(block_id(index, one)) for index in (0, 49_999)}) == 1
    assert block_id(0, one) != block_id(0, other), "another file's block is never taken for ours"


def test_what_is_collected(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", {"model.onnx": 10})
    (lab.folder.onnx_dir / "weights.bin").write_bytes(b"weights")
    (lab.folder.onnx_dir / "model.onnx.data").symlink_to("weights.bin")
    (lab.folder.onnx_dir / "loop").symlink_to(lab.folder.onnx_dir)
    names = {item.name: item.size for item in collect(lab.folder, lab.recipe).items}
    assert names["model.onnx.data"] == 7, "links within the folder are followed"
    assert ".gitignore" in names
    assert not any(name.startswith("loop/") for name in names)
    dangling = lab.folder.onnx_dir / "dangling"
    dangling.symlink_to("nowhere")
    with pytest.raises(RequestError, match="cannot be read"):
        collect(lab.folder, lab.recipe)
    dangling.unlink()
    (tmp_path / "id_ed25519").write_text("private")
    dangling.symlink_to(tmp_path / "id_ed25519")
    with pytest.raises(RequestError, match="leads out"):
        collect(lab.folder, lab.recipe)


def test_what_a_fetched_recipe_may_set() -> None:
    theirs = Recipe().with_values(
        {
            "model.source": "/etc",
            "model.trust_remote_code": True,
            "data.file": "/home/me/letters.jsonl",
            "quantize.calibration_file": "../other.jsonl",
            "upload.workspace": "theirs",
            "upload.tags": {"a": "b"},
            "data.template": "{question}: {answer}",
            "finetune.adapter": "mine",
            "chat.temperature": 0.5,
        }
    )
    ours, left = recipe_from_elsewhere(recipe_text(theirs))
    assert ours.model == Recipe().model
    assert ours.upload == Recipe().upload
    assert ours.data == dataclasses.replace(Recipe().data, template="{question}: {answer}")
    assert ours.quantize == Recipe().quantize
    assert (ours.finetune.adapter, ours.chat.temperature) == ("mine", 0.5)
    assert set(left) == {
        "model.source", "model.trust_remote_code", "data.file", "quantize.calibration_file", "upload.workspace",
        "upload.tags",
    }  # fmt: skip
    assert recipe_from_elsewhere("no recipe") == (Recipe(), {})


def test_an_upload_does_not_change_what_is_uploaded(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", {"model.onnx": 10})
    before = collect(lab.folder, lab.recipe)
    lab.set({"upload.registered": "ft-for-travel:1", "upload.tags": {"team": "x"}})
    report = lab.folder.report_path
    report.write_text(
        report.read_text().replace("12:00:00", "13:30:00") + "\n## Upload\n\n| what | value |\n"
    )
    after = collect(lab.folder, lab.recipe)
    assert [item for item in after.items if not item.path] == [item for item in before.items if not item.path]


def test_the_page_goes_along_without_its_date(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", {"model.onnx": 10})
    lab.folder.report_page_path.write_text("<p>Written 2026-11-27T20:57:16Z by OlivePress 0.1.0.</p>")
    sent = {item.name: item.data for item in collect(lab.folder, lab.recipe).items}
    assert sent["report.html"] == b"<p>Written by OlivePress 0.1.0.</p>"


def test_a_certificate_that_nobody_signed(
    azure: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.azure.signin import sign_in
    from tests.azure.certs import make_certificates

    other, _, _ = make_certificates(tmp_path / "other")
    signed_in(azure, monkeypatch)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    refused(lambda: sign_in("environment"), "The connection to Azure is not trusted.")


def test_a_proxy_that_refuses_and_one_that_is_gone(azure: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.azure.signin import sign_in

    signed_in(azure, monkeypatch)
    monkeypatch.setattr(azure.proxy, "routes", {})
    refused(lambda: sign_in("environment"), "The proxy does not let us through to Azure.")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    refused(lambda: sign_in("environment"), "The proxy does not let us through to Azure.")


def test_a_name_that_nobody_knows(azure: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.azure.signin import sign_in

    def unknown(*asked: object, **more: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Ein anderer Satz")

    signed_in(azure, monkeypatch)
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    refused(lambda: sign_in("environment"), "Azure's address is not known here.")


def refused(act: object, sentence: str) -> None:
    with soon(), pytest.raises(MachineError) as caught:
        act()  # type: ignore[operator]
    assert caught.value.title == sentence


def test_a_sign_in_that_was_not_kept_asks_again_in_the_job(
    blobs: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.azure import signin
    from core.events import RecordingReporter
    from core.upload.stage import dry_run, upload

    blobs.fake.approved.set()
    assert signin.sign_in("device", on_prompt=lambda prompt: None).keep == "none"
    signin._this_program.clear()  # a job is another process
    lab: Lab = make_lab(tmp_path / "lab", {"model.onnx": 1000})
    report = RecordingReporter()
    assert upload(lab.folder, lab.recipe, report, Stop())["version"] == "1"
    assert any("ABCD-EFGH" in event.get("text", "") for event in report.events), "in the log"
    assert any("ABCD-EFGH" in event.get("phase", "") for event in report.events), "and as what the job does"
    assert len(blobs.fake.seen(path="devicecode")) == 2
    dry_run(lab.folder, lab.recipe, RecordingReporter(), Stop())
    assert len(blobs.fake.seen(path="devicecode")) == 2, (
        "what a process signed in for holds for all that it does"
    )


def test_what_is_told_of_a_model_comes_from_the_manifests(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", {"model.onnx": 10})
    contents = collect(lab.folder, lab.recipe)
    _, properties, _ = described(lab.folder, lab.recipe, contents)
    assert properties["olivepress.data"] == "d" * 64
    assert properties["olivepress.eval_loss"] == "1.25"
    assert properties["olivepress.packages"] == '{"peft": "0.21.2"}'
    (lab.folder.onnx_dir / MANIFEST).write_text("{")
    with pytest.raises(RequestError, match="damaged"):
        described(lab.folder, lab.recipe, contents)


@pytest.mark.parametrize("words", ["There is no such thing in Azure.", "Ein anderer Satz über workspaces."])
def test_a_missing_model_is_known_by_its_code_and_not_by_words(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(Place("1-2-3", "rg", "ws"), credential=None)
    errors: list[LabError] = [
        RequestError(words, "model travel: gone.", code="azure.missing"),
        RequestError("There is no such resource group.", "model: 404.", code="azure.workspace"),
    ]

    def refuse(*asked: object, **more: object) -> object:
        raise errors.pop(0)

    monkeypatch.setattr(workspace._rest, "call", refuse)
    assert workspace.model("travel", "1") is None
    with pytest.raises(RequestError, match="resource group"):
        workspace.model("travel", "1")


def test_without_the_datastores_secret_ones_own_right_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(Place("1-2-3", "rg", "ws"), credential=None)
    codes = ["azure.right", "azure.network"]

    def refuse(*asked: object, **more: object) -> object:
        raise MachineError("Words.", code=codes.pop(0))

    monkeypatch.setattr(workspace._rest, "call", refuse)
    store = Datastore("blobs", "account", "container", "core.windows.net", "AccountKey")
    assert workspace.access(store) == Access("user")
    with pytest.raises(MachineError, match="Words"):
        workspace.access(store)
