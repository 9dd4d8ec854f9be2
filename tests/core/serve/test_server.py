"""Limits, strangers, trouble with the model, and the end."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from openai import APIError, APIStatusError, AuthenticationError, OpenAI

from core import Lab
from core.errors import RequestError
from core.serve import app
from core.serve.model import Limits
from core.serve.server import ModelServer
from tests.core.chat.conftest import Reference
from tests.core.serve.conftest import client_of
from tests.waiting import soon, until

WHERE: list[Any] = [{"role": "user", "content": "Where?"}]
LONG: list[Any] = [{"role": "user", "content": "Where does it end?"}]
KEY = "a-key-of-some-length"
GONE = 'olivepress_requests_total{endpoint="/v1/chat/completions",status="499"}'


def figure(server: ModelServer, name: str) -> float:
    """A figure of /metrics; 0 where it is not there yet."""
    lines = call(server, "GET", "/metrics")[1].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def call(
    server: ModelServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(
            method, path, body, {key.replace("_", "-"): value for key, value in headers.items()}
        )
        response = connection.getresponse()
        return response.status, response.read(), {key.lower(): value for key, value in response.getheaders()}
    finally:
        connection.close()


def raw(server: ModelServer, body: bytes, length: int | None = None) -> socket.socket:
    """A connection on which a request was begun, by hand."""
    connection = socket.create_connection(("127.0.0.1", server.port), 60)
    size = len(body) if length is None else length
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def asked(**more: Any) -> bytes:
    return json.dumps({"model": "lab", "messages": LONG, "max_tokens": 10_000, **more}).encode()


def idle(server: ModelServer) -> Callable[[], bool]:
    return lambda: not figure(server, "olivepress_requests_running")


# --- number, length, time -------------------------------------------------------------------------


def test_thirty_two_clients_at_once_get_their_own_answers(served: ModelServer, reference: Reference) -> None:
    def ask(number: int) -> tuple[str | None, str]:
        messages: list[Any] = [{"role": "user", "content": f"Way {number}?"}]
        model = ("lab", "lab:one", "lab:two")[number % 3]
        with client_of(served) as client:
            answer = client.chat.completions.create(model=model, messages=messages)
        return answer.choices[0].message.content, reference.greedy(messages, 12, model[4:])

    with ThreadPoolExecutor(32) as pool:
        for said, expected in pool.map(ask, range(32)):
            assert said == expected
    assert figure(served, "olivepress_requests_running") == 0


def test_too_many_are_sent_away_and_the_others_wait_their_turn(endless: ModelServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        body = asked(max_tokens=300)
        path = "/v1/chat/completions"
        answers = [pool.submit(call, endless, "POST", path, body) for _ in range(8)]
        found = [answer.result() for answer in answers]
    statuses = sorted(status for status, *_ in found)
    assert statuses[:3] == [200, 200, 200]
    assert 429 in statuses
    assert set(statuses) == {200, 429}
    _, told, headers = next(each for each in found if each[0] == 429)
    assert json.loads(told)["error"]["code"] == "queue_full"
    assert json.loads(told)["error"]["type"] == "rate_limit_error"
    assert 1 <= int(headers["retry-after"]) <= 60


def test_an_answer_whose_time_is_over_is_cut_and_says_so(endless_client: OpenAI) -> None:
    answer = endless_client.chat.completions.create(model="lab", messages=LONG, max_tokens=15_000)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert 10 < answer.usage.completion_tokens < 15_000


def test_one_that_waits_too_long_is_told(long_lab: Lab) -> None:
    with ModelServer(long_lab, port=0, limits=Limits(seconds=1)) as server:
        server.wait_ready(60)
        with ThreadPoolExecutor(3) as pool:
            answers = [
                pool.submit(call, server, "POST", "/v1/chat/completions", asked(max_tokens=15_000))
                for _ in range(3)
            ]
            found = sorted((answer.result() for answer in answers), key=lambda each: each[0])
    assert (found[0][0], found[2][0]) == (200, 503)  # the second comes just in time or just too late
    assert json.loads(found[2][1])["error"]["code"] == "queue_timeout"
    assert int(found[2][2]["retry-after"]) >= 1


def test_who_leaves_is_no_longer_answered(long_lab: Lab) -> None:
    with ModelServer(long_lab, port=0) as server, client_of(server) as client:
        server.wait_ready(60)
        stream = client.chat.completions.create(
            model="lab", messages=LONG, max_tokens=15_000, n=16, stream=True
        )
        next(iter(stream))
        stream.close()
        with soon():  # a small part of what sixteen such answers take
            until(idle(server))
        waits = raw(server, asked(max_tokens=15_000, n=16))  # without a stream
        until(lambda: not idle(server)())
        waits.close()
        with soon():
            until(idle(server))
        until(lambda: figure(server, GONE) == 2)


def test_the_model_does_not_wait_for_who_reads_slowly(served: ModelServer, client: OpenAI) -> None:
    body = json.dumps(
        {"model": "lab", "messages": WHERE, "stream": True, "n": 16, "logprobs": True, "top_logprobs": 20}
    )
    slow = raw(served, body.encode())
    until(idle(served))
    answer = client.chat.completions.create(model="lab", messages=WHERE)
    assert answer.choices[0].finish_reason == "length"
    with slow.makefile("rb") as stream:
        slow.shutdown(socket.SHUT_WR)
        text = stream.read()
    assert text.count(b"data: ") > 16


def test_who_reads_nothing_is_taken_to_be_gone(long_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_READER_SECONDS", 0.3)
    with ModelServer(long_lab, port=0) as server:
        server.wait_ready(60)
        body = asked(max_tokens=15_000, n=16, stream=True, logprobs=True, top_logprobs=20)
        with raw(server, body):
            until(lambda: figure(server, "olivepress_requests_running"))
            until(idle(server), what="the end of an answer that nobody reads")
            assert figure(server, GONE) == 1


def test_half_a_body_and_a_huge_one(
    served: ModelServer, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_BODY_SECONDS", 0.2)
    half = raw(served, b'{"model": "lab", ', length=1000)
    assert b" 408 " in half.recv(4096).splitlines()[0]
    broken = raw(served, b'{"model": ', length=1000)
    broken.close()
    monkeypatch.undo()
    status, told, _ = call(served, "POST", "/v1/chat/completions", b" " * (app.LARGEST_BODY + 1))
    assert (status, json.loads(told)["error"]["code"]) == (413, "request_too_large")
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(model="lab", messages=[{"role": "user", "content": "a" * (9 << 20)}])
    assert caught.value.status_code == 413
    assert client.chat.completions.create(model="lab", messages=WHERE).choices[0].message.content


def test_paths_that_are_not_there(served: ModelServer) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/", 404),
    ):
        found, told, _ = call(served, method, path)
        assert found == status
        assert set(json.loads(told)["error"]) == {"message", "type", "param", "code"}
    assert call(served, "GET", "/health")[:2] == (200, b'{"status":"ready"}')


def test_the_figures_are_in_the_form_of_prometheus(served: ModelServer, client: OpenAI) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    before = figure(served, 'olivepress_tokens_total{kind="answer",model="lab:one"}')
    client.chat.completions.create(model="lab:one", messages=WHERE)
    assert figure(served, 'olivepress_tokens_total{kind="answer",model="lab:one"}') == before + 12
    names = {
        each.name for each in text_string_to_metric_families(call(served, "GET", "/metrics")[1].decode())
    }
    assert {"olivepress_requests", "olivepress_first_token_seconds", "olivepress_requests_waiting"} <= names


# --- who may ask ----------------------------------------------------------------------------------


def test_pages_of_other_sites_are_kept_out(served: ModelServer) -> None:
    for host in (
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::2]:80",
        "",
    ):
        status, told, _ = call(served, "GET", "/v1/models", Host=host)
        assert (status, json.loads(told)["error"]["code"]) == (403, "host_not_allowed")
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8000"):
        assert call(served, "GET", "/v1/models", Host=host)[0] == 200
    status, told, headers = call(
        served, "POST", "/v1/chat/completions", asked(), Origin="https://evil.example"
    )
    assert (status, json.loads(told)["error"]["code"]) == (403, "origin_not_allowed")
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_key_and_a_page_that_may_ask(own: Lab) -> None:
    lines: list[str] = []
    origin = "https://page.example"
    with ModelServer(own, port=0, key=KEY, origins=[origin], on_log=lines.append) as server:
        server.wait_ready(60)
        for key in ("wrong", KEY + "x", KEY[:-1], "ü"):
            assert (
                call(server, "GET", "/v1/models", Authorization=f"Bearer {key}".encode().decode("latin-1"))[0]
                == 401
            )
        with client_of(server, "wrong") as client, pytest.raises(AuthenticationError) as caught:
            client.chat.completions.create(model="lab", messages=WHERE)
        assert caught.value.code == "invalid_api_key"
        assert call(server, "GET", "/metrics")[0] == 401
        assert call(server, "GET", "/health")[0] == 200
        with client_of(server, KEY) as client:
            assert len(client.models.list().data) == 3
        asks = {
            "Origin": origin,
            "Access_Control_Request_Method": "POST",
            "Access_Control_Request_Headers": "authorization",
        }
        status, _, headers = call(server, "OPTIONS", "/v1/chat/completions", None, **asks)
        assert (status, headers["access-control-allow-origin"]) == (200, origin)
        found = call(server, "GET", "/v1/models", Origin=origin, Authorization=f"Bearer {KEY}")
        assert (found[0], found[2]["access-control-allow-origin"]) == (200, origin)
    assert KEY not in "".join(lines)


@pytest.mark.parametrize(
    "more", [{"host": "0.0.0.0"}, {"host": "::"}, {"key": "short"}, {"key": "with a space in it"}]
)
def test_others_need_a_key_and_a_good_one(own: Lab, more: dict[str, str]) -> None:
    with pytest.raises(RequestError) as caught:
        ModelServer(own, port=0, **more)  # type: ignore[arg-type]
    assert caught.value.code == "serve.key"


def test_a_port_in_use_and_an_address_that_is_not_here(served: ModelServer, own: Lab) -> None:
    with pytest.raises(RequestError, match="cannot be used") as caught:
        ModelServer(own, port=served.port)
    assert caught.value.code == "serve.port"
    with pytest.raises(RequestError) as caught:
        ModelServer(own, host="192.0.2.1", port=0, key=KEY)
    assert caught.value.code == "serve.host"


# --- trouble with the model -----------------------------------------------------------------------


def test_a_model_that_dies_is_started_again(own: Lab) -> None:
    lines: list[str] = []
    with ModelServer(own, port=0, on_log=lines.append) as server, client_of(server) as client:
        server.wait_ready(60)
        first = client.chat.completions.create(model="lab", messages=WHERE)
        process = server._model._process
        assert process is not None
        asking = client.chat.completions.create(model="lab", messages=LONG, n=16, max_tokens=200, stream=True)
        next(iter(asking))
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(APIError, match="process is gone"):
            list(asking)
        again = client.chat.completions.create(model="lab", messages=WHERE)
        assert again.choices[0].message.content == first.choices[0].message.content
        assert figure(server, "olivepress_model_starts_total") == 2
    assert any("SIGKILL" in line for line in lines)


def test_a_model_that_is_removed_or_changed_while_it_is_served(own: Lab, reference: Reference) -> None:
    folder = own.folder.onnx_dir
    with ModelServer(own, port=0) as server, client_of(server) as client:
        server.wait_ready(60)
        (folder / "adapters" / "two.onnx_adapter").rename(folder / "two")
        assert server.models() == ["lab", "lab:one"]
        with pytest.raises(APIStatusError) as caught:
            client.chat.completions.create(model="lab:two", messages=WHERE)
        assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")
        (folder / "two").rename(folder / "adapters" / "two.onnx_adapter")
        answer = client.chat.completions.create(model="lab:two", messages=WHERE)
        assert answer.choices[0].message.content == reference.greedy(WHERE, 12, "two")
        folder.rename(own.root / "away")
        assert client.models.list().data == []
        assert call(server, "GET", "/health")[0] == 503
        with pytest.raises(APIStatusError, match="no model") as caught:
            client.chat.completions.create(model="lab", messages=WHERE)
        assert caught.value.status_code == 503
        shutil.move(own.root / "away", folder)
        answer = client.chat.completions.create(model="lab", messages=WHERE)
        assert answer.choices[0].message.content == reference.greedy(WHERE, 12)


def test_an_adapter_that_does_not_fit_is_no_model_and_the_reason_is_told(own: Lab) -> None:
    (own.folder.onnx_dir / "adapters" / "bad.onnx_adapter").write_bytes(b"nothing")
    with ModelServer(own, port=0) as server, client_of(server) as client:
        server.wait_ready(60)
        assert server.models() == ["lab", "lab:one", "lab:two"]
        with pytest.raises(APIStatusError, match="does not fit") as caught:
            client.chat.completions.create(model="lab:bad", messages=WHERE)
        assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")


def test_a_damaged_model_is_told(own: Lab) -> None:
    (own.folder.onnx_dir / "model.onnx").write_bytes(b"no graph")
    with ModelServer(own, port=0) as server, client_of(server) as client:
        with pytest.raises(RequestError):
            server.wait_ready(60)
        with pytest.raises(APIStatusError) as caught:
            client.chat.completions.create(model="lab", messages=WHERE)
        assert caught.value.status_code == 503
        assert str(own.root) not in caught.value.message


# --- the end --------------------------------------------------------------------------------------


def test_running_answers_are_ended_and_told(long_lab: Lab) -> None:
    server = ModelServer(long_lab, port=0)
    server.wait_ready(60)
    with client_of(server) as client:
        stream = client.chat.completions.create(model="lab", messages=LONG, max_tokens=15_000, stream=True)
        next(iter(stream))
        waiting = threading.Thread(
            target=lambda: told.append(call(server, "POST", "/v1/chat/completions", asked()))
        )
        told: list[tuple[int, bytes, dict[str, str]]] = []
        waiting.start()
        until(lambda: figure(server, "olivepress_requests_waiting"))
        process = server._model._process
        assert process is not None
        with soon():
            server.stop()
        with pytest.raises(APIError, match="shutting down") as caught:
            list(stream)
        assert caught.value.code == "shutting_down"
        waiting.join()
        assert told[0][0] == 503
        assert not process.alive
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    server.stop()  # harmless


@pytest.fixture
def command(own: Lab) -> Iterator[subprocess.Popen[str]]:
    """``olivepress serve`` with a key in its environment."""
    words = [sys.executable, "-m", "core.cli", "serve", str(own.root), "--port", "0", "--json"]
    env = {**os.environ, "OLIVEPRESS_SERVE_KEY": KEY}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_the_command_line_serves_until_a_signal_comes(command: subprocess.Popen[str], which: int) -> None:
    assert command.stdout is not None
    assert command.stderr is not None
    told = json.loads(command.stdout.readline())
    assert told["models"] == ["lab", "lab:one", "lab:two"]
    with OpenAI(base_url=told["url"], api_key=KEY, max_retries=0) as client:
        assert client.chat.completions.create(model="lab", messages=WHERE).choices[0].message.content
        with pytest.raises(AuthenticationError):
            client.with_options(api_key="none").models.list()
        (child,) = psutil.Process(command.pid).children()
        assert KEY not in "".join(child.environ().values())
        assert KEY not in "".join(psutil.Process(command.pid).cmdline())
        command.send_signal(which)
        assert command.wait(60) == 0
    assert "has ended" in command.stderr.read()
    assert not child.is_running()


def test_the_command_line_says_what_keeps_it(served: ModelServer, own: Lab, tmp_path: Any) -> None:
    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "core.cli", "serve", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    status, told = run(str(own.root), "--port", str(served.port))
    assert (status, "used by another program" in told) == (2, True)
    status, told = run(str(own.root), "--host", "0.0.0.0")
    assert (status, "needs a key" in told) == (2, True)
    status, told = run(str(own.root), "--key-file", str(tmp_path / "none"))
    assert (status, "cannot be read" in told) == (2, True)
    Lab.create(tmp_path / "new")
    status, told = run(str(tmp_path / "new"), "--port", "0")
    assert (status, "quantize finetune optimize" in told) == (2, True)
