"""Where models come from: folders, the rehearsal model, and a hub, spoken to over its own protocol."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.errors import Cancelled, MachineError, RequestError
from core.events import RecordingReporter, Reporter
from core.model.sources import kind_of, model_stamp, resolve_model
from core.resources import REHEARSAL, rehearsal_model
from tests.tiny_models import make_tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub that serves one model: the calls of huggingface_hub that a download makes, and no more."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.files |= {"odd.py": b"raise SystemExit", "flax_model.msgpack": b"x", "onnx/model.onnx": b"x"}
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.gated = self.private = self.broken = self.cut = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler, body: bool) -> None:
        path = to.path.split("?")[0]
        self.requests.append(path)
        self.tokens.append(to.headers.get("Authorization"))
        if self.broken:
            return self.send(to, 503, b"{}", body)
        error = {}
        if "/lab/tiny" not in path or (self.private and self.tokens[-1] != "Bearer hf_right"):
            error = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        elif self.gated:
            error = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"}
        elif "nosuchbranch" in path:
            error = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
        if error:
            code = 403 if self.gated else 404 if "Revision" in error["X-Error-Code"] else 401
            return self.send(to, code, b"{}", body, error)
        if path.startswith("/api/models/lab/tiny/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": self.oid(data)}
                for name, data in self.files.items()
            ]
            return self.send(to, 200, json.dumps(tree).encode(), body)
        if path.startswith("/api/models/lab/tiny"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": "lab/tiny", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            return self.send(to, 200, json.dumps(info).encode(), body)
        match = re.fullmatch(r"/lab/tiny/resolve/[^/]+/(.+)", path)
        if match and match[1] in self.files:
            data = self.files[match[1]]
            headers = {"ETag": f'"{self.oid(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            return self.send(to, 200, data, body, headers)
        return self.send(to, 404, b"{}", body, {"X-Error-Code": "EntryNotFound"})

    @staticmethod
    def oid(data: bytes) -> str:
        return hashlib.sha1(data).hexdigest()

    def send(
        self,
        to: BaseHTTPRequestHandler,
        code: int,
        data: bytes,
        body: bool,
        headers: dict[str, str] | None = None,
    ) -> None:
        to.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            to.send_header(name, value)
        to.end_headers()
        if body and self.cut and len(data) > 10_000:
            to.wfile.write(data[: len(data) // 2])
            to.close_connection = True
            self.broken = True
        elif body:
            to.wfile.write(data)

    def fetched(self) -> set[str]:
        return {path.rsplit("/", 1)[-1] for path in self.requests if "/resolve/" in path}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants, file_download

    hub = Hub(folder)
    # The library reads its environment once, when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(
        file_download, "HUGGINGFACE_CO_URL_TEMPLATE", constants.HUGGINGFACE_CO_URL_TEMPLATE, raising=False
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_kinds_are_told_apart_without_looking_further(folder: Path, tmp_path: Path) -> None:
    assert kind_of("rehearsal", tmp_path) == "rehearsal"
    assert kind_of("azureml://registries/r/models/m/versions/1", tmp_path) == "azureml"
    assert kind_of(str(folder), tmp_path) == "folder"
    assert kind_of("microsoft/Phi-3.5-mini-instruct", tmp_path) == "hub"
    assert kind_of("owner/name@main", tmp_path) == "hub"
    (tmp_path / "owner/name").mkdir(parents=True)
    assert kind_of("owner/name", tmp_path) == "folder"
    assert kind_of("./owner/none", tmp_path) == "folder"


def test_folders_lie_below_the_lab_or_anywhere(folder: Path) -> None:
    report = Reporter()
    assert resolve_model(str(folder), Path("/nowhere"), report).path == folder
    found = resolve_model(folder.name, folder.parent, report)
    assert (found.path, found.name, found.revision) == (folder, "tiny", None)


def test_the_rehearsal_model_is_there(tmp_path: Path) -> None:
    found = resolve_model("rehearsal", tmp_path, Reporter())
    assert found.name == "rehearsal"
    assert (found.path / "tokenizer.json").is_file()


@pytest.mark.parametrize("source", ["nowhere", "./a/b", "a/b/c", "lab.toml"])
def test_what_is_no_model_is_refused_with_what_would_be(source: str, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text("")
    with pytest.raises(RequestError) as caught:
        resolve_model(source, tmp_path, Reporter())
    assert "hub id" in caught.value.hint


def test_a_hub_model_is_fetched_whole_with_progress_and_nothing_else(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    report = RecordingReporter()
    found = resolve_model("lab/tiny", tmp_path, report)
    assert found.name == "lab/tiny"
    assert found.revision == COMMIT
    assert (found.path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert hub.fetched() == {path.name for path in folder.iterdir()}  # no code, no other formats
    bars = [e for e in report.events if e["type"] == "progress" and e["phase"] == "Downloading the model"]
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert bars[-1]["done"] == bars[-1]["total"] == total
    assert {e["phase"] for e in report.events} <= {"Looking for the model", "Downloading the model"}
    before = len(hub.fetched())
    resolve_model("lab/tiny", tmp_path, report)
    assert len(hub.fetched()) == before


def test_code_is_fetched_only_with_leave(hub: Hub, tmp_path: Path) -> None:
    resolve_model("lab/tiny", tmp_path, Reporter(), trust_remote_code=True)
    assert "odd.py" in hub.fetched()


def test_the_token_comes_from_the_usual_place(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.private = True
    with pytest.raises(RequestError, match="no such model") as caught:
        resolve_model("lab/tiny", tmp_path, Reporter())
    assert "HF_TOKEN" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert resolve_model("lab/tiny", tmp_path, Reporter()).revision == COMMIT


def test_a_gated_model_says_where_to_ask(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(RequestError, match="gated") as caught:
        resolve_model("lab/tiny", tmp_path, Reporter())
    assert f"{hub.url}/lab/tiny" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "words"), [("lab/other", "no such model"), ("lab/tiny@nosuchbranch", "no such revision")]
)
def test_a_wrong_name_is_the_requests_fault(source: str, words: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words):
        resolve_model(source, tmp_path, Reporter())


def test_offline_is_respected_and_a_fetched_model_still_opens(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError, match="switched off") as caught:
        resolve_model("lab/tiny", tmp_path, Reporter())
    assert "HF_HUB_OFFLINE" in caught.value.hint
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    resolve_model("lab/tiny", tmp_path, Reporter())
    seen = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model("lab/tiny", tmp_path, Reporter()).revision == COMMIT
    assert len(hub.requests) == seen


def test_a_hub_that_cannot_be_reached_is_the_machines_fault(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.server.shutdown()
    hub.server.server_close()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match="cannot be reached") as caught:
        resolve_model("lab/tiny", tmp_path, Reporter())
    assert "HF_ENDPOINT" in caught.value.hint


def test_a_hub_in_trouble_is_told_from_none(hub: Hub, tmp_path: Path) -> None:
    hub.broken = True
    with pytest.raises(MachineError, match="answered with an error") as caught:
        resolve_model("lab/tiny", tmp_path, Reporter())
    assert "503" in caught.value.detail


def test_a_network_that_goes_in_the_middle_leaves_nothing_half(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again
    hub.cut = True
    with pytest.raises(MachineError):
        resolve_model("lab/tiny", tmp_path, Reporter())
    hub.cut = hub.broken = False
    found = resolve_model("lab/tiny", tmp_path, Reporter())
    for path in folder.iterdir():
        assert (found.path / path.name).read_bytes() == path.read_bytes()


def test_a_cancel_stops_a_download(hub: Hub, tmp_path: Path) -> None:
    report = RecordingReporter(cancelled=True)
    with pytest.raises(Cancelled):
        resolve_model("lab/tiny", tmp_path, report)


def test_the_bundled_model_is_the_same_in_every_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = model_stamp(REHEARSAL, tmp_path)
    copied = tmp_path / rehearsal_model().name
    shutil.copytree(rehearsal_model(), copied)
    for path in copied.iterdir():
        os.utime(path, (1, 1))
    monkeypatch.setattr("core.model.sources.rehearsal_model", lambda: copied)
    assert model_stamp(REHEARSAL, tmp_path) == here

    card = copied / "config.json"
    card.write_text(card.read_text() + "\n")
    assert model_stamp(REHEARSAL, tmp_path) != here
