"""Tokens go to the chosen cloud's hosts alone; names are quoted whole; answers end in size and time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.azure import transport
from core.azure.rest import CLOUD_VARIABLE, CLOUDS, Rest, cloud, require_service, segment, storage_url
from core.azure.signin import current
from core.azure.workspace import Place, subscriptions
from core.errors import LabError, RequestError, StageError
from tests.azure.conftest import World
from tests.azure.labs import signed_in
from tests.waiting import soon

STRANGERS = (
    "https://evil.example/x",
    "http://management.azure.com/x",
    "https://management.azure.com.evil.example/x",
    "https://management.azure.com@evil.example/x",
    "https://management.azure.com:8443/x",
    "https://evil.example/.api.azureml.ms",
    "https://evil.example\\.api.azureml.ms/x",
    "https://evilapi.azureml.ms/x",
    "https://[::1]/x",
    "https://[/x",
    "",
)


class Watched:
    """A credential that notes each time it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def get_token(self, *scopes: str, **options: Any) -> Any:
        self.asked.append(scopes)
        return SimpleNamespace(token="eyJplanted", expires_on=int(time.time()) + 3600)


@pytest.mark.parametrize("url", [url for url in STRANGERS if url.startswith("https")])
def test_a_stranger_gets_no_token(url: str) -> None:
    credential = Watched()
    with pytest.raises(StageError) as caught:
        Rest(credential).call("GET", url, "it")
    assert caught.value.code == "azure.stranger"
    assert credential.asked == []


def test_a_next_page_elsewhere_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = Rest(Watched())
    answer = {"value": [{"name": "a"}], "nextLink": "https://evil.example/page2"}
    asked: list[str] = []

    def read(request: Any, **options: Any) -> Any:
        asked.append(request.url)
        return SimpleNamespace(status_code=200, content=b"x", json=lambda: answer)

    monkeypatch.setattr(rest._client, "send_request", read)
    with pytest.raises(StageError, match="not Azure's"):
        list(rest.pages("/subscriptions", "the subscriptions"))
    assert len(asked) == 1


@pytest.mark.parametrize("url", STRANGERS)
def test_whose_hosts_are_whose(url: str) -> None:
    with pytest.raises(StageError):
        require_service(url, "it")


@pytest.mark.parametrize("name", CLOUDS)
def test_each_cloud_takes_its_own_hosts_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLOUD_VARIABLE, name.upper())
    for other, hosts in CLOUDS.items():
        for url in (hosts.url, f"https://{hosts.discovery}/x"):
            if other == name:
                require_service(url, "it")
            else:
                with pytest.raises(StageError):
                    require_service(url, "it")
    assert storage_url("abc", cloud().storage, "c-1", "it") == f"https://abc.blob.{cloud().storage}/c-1"
    assert cloud().scope == f"https://{cloud().manager}/.default"
    page = Place("s", "g", "w").page("m", "1")
    assert page.startswith(f"https://{cloud().studio}/")


def test_a_cloud_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLOUD_VARIABLE, "mars")
    with pytest.raises(RequestError, match="no such Azure cloud") as caught:
        cloud()
    assert "usgov" in caught.value.hint


@pytest.mark.parametrize(
    ("account", "endpoint", "container"),
    [
        ("abc", "core.windows.net.evil.example", "c"),
        ("abc", "evil.example", "c"),
        ("abc", "core.windows.net@evil.example", "c"),
        ("evil.example/", "core.windows.net", "c"),
        ("ab", "core.windows.net", "c"),
        ("ABC", "core.windows.net", "c"),
        ("a" * 25, "core.windows.net", "c"),
        ("abc", "core.windows.net", "../c"),
        ("abc", "core.windows.net", "c?x"),
        ("abc", "core.windows.net", ""),
        ("abc", "core.chinacloudapi.cn", "c"),
    ],
)
def test_storage_that_is_not_this_clouds_is_refused(account: str, endpoint: str, container: str) -> None:
    with pytest.raises(StageError):
        storage_url(account, endpoint, container, "it")


@given(st.text(min_size=1))
def test_a_name_is_one_part_of_a_path(name: str) -> None:
    try:
        part = segment(name)
    except (RequestError, UnicodeEncodeError):
        return
    assert part.isascii()
    assert not set(part) & set("/\\?#@: ")
    assert part not in (".", "..")


def test_names_of_a_recipe_cannot_lead_to_another_path() -> None:
    place = Place("s/../../x", "g?y=", "w#z")
    assert place.path.count("/") == Place("s", "g", "w").path.count("/")
    assert not set("?#") & set(place.path)
    with pytest.raises(RequestError):
        _ = Place("..", "g", "w").path
    with pytest.raises(RequestError):
        _ = Place("s", "..", "w").path


def test_an_answer_that_does_not_end_is_given_up(azure: World, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in(azure, monkeypatch)
    credential = current().credential
    monkeypatch.setenv("OLIVEPRESS_AZURE_PATIENCE", "1")
    azure.fake.fault(path="/subscriptions", action="drip")
    with soon(), pytest.raises(LabError) as caught:
        subscriptions(Rest(credential))
    assert caught.value.code == "azure.connection"


def test_an_answer_without_measure_is_refused(azure: World, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in(azure, monkeypatch)
    credential = current().credential
    monkeypatch.setattr(transport, "LARGEST", 10_000)
    azure.fake.fault(path="/subscriptions", status=200, message="x" * 20_000)
    with pytest.raises(StageError, match="too long"):
        subscriptions(Rest(credential))
