"""Sending to a hub: a server on this machine that speaks the hub's protocol, as far as an upload uses it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import LabError
from core.export.write import export
from core.lab import Lab
from tests.core.export.labs import add_adapter, lab_with

# huggingface_hub hands httpx the bytes of a file in a way that httpx will drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_right"


class Hub:
    """Repositories in memory. Large files come by Git LFS, the others within the commit."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.fail_after = -1
        """Large files that are taken before the hub breaks; -1 for all."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                code, told = hub.answer(
                    self.command,
                    self.path.split("?")[0],
                    self.rfile.read(size),
                    self.headers.get("Authorization"),
                )
                body = json.dumps(told).encode()
                self.send_response(code)
                if code == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        if path.startswith("/put/"):
            if self.fail_after == 0:
                return 400, {"error": "broken"}
            self.fail_after -= 1
            self.puts.append(path)
            self.objects[path.rpartition("/")[2]] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "no"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user"}
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].split("---")[1]
            wrong = set(yaml.safe_load(front)) - {
                "license",
                "license_name",
                "base_model",
                "tags",
                "pipeline_tag",
            }
            return 200, {"errors": [{"message": each} for each in wrong], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if not name.startswith("me/"):
                return 403, {"error": "not yours"}
            private = asked.get("private", asked.get("visibility") == "private")
            self.repositories.setdefault(name, {"private": bool(private), "files": {}, "commits": 0})
            return 200, {"url": f"{self.url}/{name}"}
        name = "/".join(
            path.removeprefix("/api/models").removesuffix(".git/info/lfs/objects/batch").split("/")[1:3]
        )
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        return self.of_repository(self.repositories[name], path, body)

    def of_repository(self, found: dict[str, Any], path: str, body: bytes) -> tuple[int, Any]:
        if "/preupload/" in path:
            return 200, {
                "files": [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs"
                        if each["path"].endswith((".safetensors", ".gguf"))
                        else "regular",
                        "shouldIgnore": False,
                    }
                    for each in json.loads(body)["files"]
                ]
            }
        if path.endswith("/objects/batch"):
            objects = []
            for each in json.loads(body)["objects"]:
                told: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
                if each["oid"] not in self.objects:
                    told["actions"] = {"upload": {"href": f"{self.url}/put/{each['oid']}", "header": {}}}
                objects.append(told)
            return 200, {"transfer": "basic", "objects": objects}
        if "/commit/" in path:
            for line in body.splitlines():
                step = json.loads(line)
                value = step["value"]
                if step["key"] == "file":
                    found["files"][value["path"]] = base64.b64decode(value["content"])
                elif step["key"] == "lfsFile":
                    found["files"][value["path"]] = self.objects[value["oid"]]
            found["commits"] += 1
            return 200, {"commitUrl": f"{self.url}/me/it/commit/1", "commitOid": "1" * 40, "success": True}
        return 200, {"id": "me/it", "private": found["private"], "siblings": [], "tags": []}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    made = Hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # then large files go by Git LFS
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = lab_with("llama", tmp_path / "lab")
    add_adapter(made)
    return made


def test_a_new_repository_is_private_and_holds_the_form(hub: Hub, lab: Lab, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    done = export(lab, "hub", "me/it", hub_form="merged")
    assert done.path == f"{hub.url}/me/it"
    assert done.numbers["private"] is True
    found = hub.repositories["me/it"]
    assert found["private"] is True
    assert found["commits"] == 1
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= found["files"].keys()
    assert "olivepress.json" not in found["files"]
    for name, content in found["files"].items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(content)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "back").num_parameters() > 0
    assert not (lab.folder.state_dir / "hub").exists() or not any((lab.folder.state_dir / "hub").iterdir())


def test_a_dry_run_sends_nothing(hub: Hub, lab: Lab) -> None:
    done = export(lab, "hub", "me/it", hub_form="gguf", dry_run=True)
    assert hub.repositories == {}
    assert hub.puts == []
    assert {"Modelfile", "README.md", "model.gguf"} == {each["name"] for each in done.numbers["contents"]}
    assert "nothing was" in done.notes[0]


def test_public_only_when_told(hub: Hub, lab: Lab) -> None:
    assert export(lab, "hub", "me/it", hub_form="merged", public=True).numbers["private"] is False
    assert hub.repositories["me/it"]["private"] is False
    again = export(lab, "hub", "me/it", hub_form="merged")
    assert any("open to everybody" in note for note in again.notes)


def test_what_arrived_is_not_sent_again(hub: Hub, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.export.merged.SHARD", 60_000)
    hub.fail_after = 2
    with pytest.raises(LabError) as caught:
        export(lab, "hub", "me/it", hub_form="merged")
    assert caught.value.code in ("hub.error", "hub.unreachable")
    assert len(hub.puts) == 2
    assert hub.repositories["me/it"]["commits"] == 0, "the repository changes only when all is there"
    hub.fail_after = -1
    export(lab, "hub", "me/it", hub_form="merged")
    assert len(hub.puts) == len(set(hub.puts)) > 3
    files = hub.repositories["me/it"]["files"]
    sent = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in files.items()
        if name.endswith(".safetensors")
    }
    assert set(sent.values()) == hub.objects.keys()


@pytest.mark.parametrize(
    ("name", "token", "code"),
    [
        ("it", TOKEN, "hub.name"),
        ("me/../it", TOKEN, "hub.name"),
        ("me/it", "hf_wrong", "hub.sign-in"),
        ("they/it", TOKEN, "hub.forbidden"),
    ],
)
def test_refusals(
    name: str, token: str, code: str, hub: Hub, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(LabError) as caught:
        export(lab, "hub", name, hub_form="merged")
    assert caught.value.code == code
    assert token not in str(caught.value)


def test_nobody_is_signed_in(hub: Hub, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(LabError) as caught:
        export(lab, "hub", "me/it", hub_form="merged")
    assert caught.value.code == "hub.sign-in"
