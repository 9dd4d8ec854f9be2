"""What the model check tells of a hub, asked over the hub's own protocol on a local server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from core import Lab
from core.check import model, subject_of
from core.check.types import FAIL, OK, WARN, Check

CONFIG = {"model_type": "phi3", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}


class Hub(BaseHTTPRequestHandler):
    """Three models: a/open, a/gated (config refused without the token `good`), a/broken (500)."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").split(":")[0]
        self.seen.append((host, self.headers.get("Authorization")))
        if host == "127.0.0.1" and self.path.startswith(("/a/moved/", "/api/models/a/renamed")):
            # A file that lies elsewhere; a model that has another name here.
            elsewhere = f"http://localhost:{self.server.server_port}/a/open/resolve/main/config.json"  # type: ignore[attr-defined]
            self.send_response(307)
            self.send_header("Location", elsewhere if "/moved/" in self.path else "/api/models/a/gated")
            self.end_headers()
            return
        allowed = self.headers.get("Authorization") == "Bearer good"
        answers: dict[str, tuple[int, object]] = {
            "/api/models/a/open": (200, {"gated": False, "cardData": {"license": "mit"}}),
            "/a/open/resolve/main/config.json": (200, CONFIG),
            "/api/models/a/gated": (
                200,
                {"gated": "manual", "cardData": {"license": "other", "license_name": "llama"}},
            ),
            "/a/gated/resolve/main/config.json": (200, CONFIG) if allowed else (401, {}),
            "/api/models/a/broken": (500, {}),
            "/api/models/a/moved": (200, {"gated": False}),
            "/a/renamed/resolve/main/config.json": (200, CONFIG) if allowed else (401, {}),
        }
        code, body = answers.get(self.path, (404 if allowed else 401, {}))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    model.forget_answers()
    yield
    model.forget_answers()
    server.shutdown()
    server.server_close()


def check(tmp_path: Path, source: str) -> Check:
    lab = Lab.create(tmp_path / "lab", model=source)
    return next(c for c in model.model(subject_of(lab.root)) if c.name == "model")


def test_an_open_model_shows_its_licence(hub: None, tmp_path: Path) -> None:
    found = check(tmp_path, "a/open")
    assert (found.state, "licence mit" in found.found) == (OK, True)


def test_a_gated_model_without_a_token_says_where_to_ask(hub: None, tmp_path: Path) -> None:
    found = check(tmp_path, "a/gated")
    assert found.state == FAIL
    assert "HF_TOKEN" in found.fix


def test_a_gated_model_with_a_token_is_fine(
    hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "good")
    found = check(tmp_path, "a/gated")
    assert found.state == OK
    assert "llama" in found.found
    assert "good" not in found.found


@pytest.mark.parametrize("source", ["a/moved", "a/renamed"])
def test_a_redirect_elsewhere_gets_no_token(
    hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "good")
    Hub.seen.clear()
    assert check(tmp_path, source).state == OK
    assert {token for host, token in Hub.seen if host == "localhost"} <= {None}
    assert {token for host, token in Hub.seen if host == "127.0.0.1"} == {"Bearer good"}
    assert (source == "a/moved") == any(host == "localhost" for host, _ in Hub.seen)


@pytest.mark.parametrize("source", ["a/missing", "a/broken"])
def test_what_is_not_there_or_does_not_answer_fails(hub: None, tmp_path: Path, source: str) -> None:
    assert check(tmp_path, source).state == FAIL


def test_no_network_and_no_copy_fails_and_a_copy_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model.forget_answers()
    found = check(tmp_path, "a/open")
    assert found.state == FAIL
    assert "HF_HUB_OFFLINE" in found.found
    copy = tmp_path / "hf/hub/models--a--open/snapshots/abc"
    copy.mkdir(parents=True)
    (copy / "config.json").write_text(json.dumps(CONFIG))
    model.forget_answers()
    again = next(c for c in model.model(subject_of(tmp_path / "lab")) if c.name == "model")
    assert again.state in (OK, WARN)
