"""A registered model behind an endpoint: what is shown, agreed to, made, asked and removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.azure.endpoints import _shared
from core.cli import main
from core.lab import Lab
from tests.azure.conftest import World
from tests.azure.labs import make_lab, signed_in

ANSWER = {"choices": [{"message": {"role": "assistant", "content": "The tower."}}]}


@pytest.fixture
def lab(blobs: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    signed_in(blobs, monkeypatch)
    played = blobs.fake.played
    played.answers = lambda asked: (200, ANSWER)
    path = "/subscriptions/s/models/ft-for-travel/versions/3"
    properties = {"modelUri": "azureml://x", "properties": {"olivepress.content": "d" * 64}, "tags": {}}
    blobs.fake.models = {"ft-for-travel": {"3": {"id": path, "name": "3", "properties": properties}}}
    return make_lab(tmp_path / "lab", {})


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_it_is_shown_then_agreed_to_then_made_asked_and_removed(
    blobs: World, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    played = blobs.fake.played
    words = ["deploy", str(lab.root), "--azureml", "travel-chat", "--json"]
    assert main([*words, "--dry-run"]) == 0
    plan = told(capsys)
    assert (plan["model"], plan["there"], plan["price_an_hour"]) == ("ft-for-travel:3", False, 0.27)
    assert main(words) == 2
    assert told(capsys)["error"]["code"] == "azure.agree"
    assert not played.endpoints
    assert main([*words, "--yes"]) == 0
    done = told(capsys)
    assert done["answer"] == "The tower."
    assert played.endpoints["travel-chat"]["properties"]["traffic"] == {"olivepress": 100}
    properties = played.deployments["travel-chat"]["properties"]
    assert properties["codeConfiguration"]["scoringScript"] == "score.py"
    (code,) = played.codes.values()
    prefix = code["properties"]["codeUri"].split("/azureml-blobstore/")[1]
    names = {
        blob.name.rsplit("/", 1)[1]
        for blob in blobs.fake.make_container().list_blobs(name_starts_with=prefix)
    }
    assert names >= {"score.py"}
    assert any(name.endswith(".whl") for name in names)
    (environment,) = played.environments.values()
    assert "azureml-inference-server-http" in environment["properties"]["condaFile"]
    assert played.key not in json.dumps(done)
    assert main([*words, "--delete", "--yes"]) == 0
    assert told(capsys) == {"endpoint": "travel-chat", "removed": True}
    assert not played.endpoints
    assert blobs.proxy.refused == []


def test_one_that_does_not_come_up_shows_its_log_without_secrets(
    blobs: World, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs.fake.played.comes_up = False
    assert main(["deploy", str(lab.root), "--azureml", "travel-chat", "--yes", "--json"]) == 3
    error = told(capsys)["error"]
    assert error["code"] == "endpoint.failed"
    assert "it has no model" in error["detail"]
    assert "abcdefghijkl" not in error["detail"]
    assert "traffic" not in blobs.fake.played.endpoints["travel-chat"]["properties"]


def test_one_that_answers_nothing_gets_no_traffic(
    blobs: World, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs.fake.played.answers = lambda asked: (200, {"hello": 1})
    assert main(["deploy", str(lab.root), "--azureml", "travel-chat", "--yes", "--json"]) == 3
    assert told(capsys)["error"]["code"] == "endpoint.answer"
    assert "traffic" not in blobs.fake.played.endpoints["travel-chat"]["properties"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--azureml", "a_b"), "endpoint.name"),
        (("--azureml", "chat", "--model", "other:1"), "azure.model"),
        (("--azureml", "chat", "--size", "Huge"), "azure.compute"),
        ((), "usage"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_made(
    blobs: World, lab: Lab, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: str
) -> None:
    assert main(["deploy", str(lab.root), *words, "--yes", "--json"]) in (2, 4)
    assert told(capsys)["error"]["code"] == code
    assert not blobs.fake.seen(method="PUT")


def test_a_key_goes_to_no_stranger(blobs: World, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    played = blobs.fake.played
    played.endpoints["travel-chat"] = {
        "identity": {"type": "SystemAssigned"},
        "properties": {"scoringUri": "https://example.com/score", "provisioningState": "Succeeded"},
    }
    assert main(["deploy", str(lab.root), "--azureml", "travel-chat", "--yes", "--json"]) == 3
    assert told(capsys)["error"]["code"] == "azure.stranger"
    assert not blobs.fake.seen(path="listKeys")


@pytest.mark.parametrize(
    ("before", "left", "after"),
    [
        ({"a": 100}, 30, {"a": 30}),
        ({"a": 2, "b": 1}, 50, {"a": 34, "b": 16}),
        ({}, 0, {}),
        ({"a": 0}, 0, {"a": 0}),
    ],
)
def test_the_rest_of_the_traffic_is_shared_as_before(
    before: dict[str, int], left: int, after: dict[str, int]
) -> None:
    assert _shared(before, left) == after
