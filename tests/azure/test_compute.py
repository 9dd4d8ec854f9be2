"""The machines of a workspace: what is listed, why one cannot be used, and making one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.azure import compute
from core.azure.compute import Compute, find_computes, seconds_of
from core.azure.retry import Stop
from core.azure.workspace import Place
from core.cli import main
from core.events import Reporter
from tests.azure.conftest import World
from tests.azure.fake import SUBSCRIPTION
from tests.azure.labs import make_lab, signed_in
from tests.azure.played import cluster

PLACE = Place(SUBSCRIPTION, "rg-travel", "travel-ws")


@pytest.fixture
def found(azure: World, monkeypatch: pytest.MonkeyPatch) -> World:
    signed_in(azure, monkeypatch)
    return azure


def listed() -> dict[str, Compute]:
    return {each.name: each for each in find_computes(PLACE, Stop(), Reporter())}


def test_a_list_tells_size_price_quota_and_idle_time(found: World) -> None:
    every = listed()
    assert list(every) == ["gpu-cluster", "my-box", "spot"]
    big, spot, box = every["gpu-cluster"], every["spot"], every["my-box"]
    assert (big.gpus, big.price, big.currency, big.quota_used, big.quota_limit) == (1, 3.67, "USD", 24, 96)
    assert (big.idle_s, big.nodes_max, big.low_priority, big.why_not()) == (600, 2, False, "")
    assert (spot.gpus, spot.low_priority, spot.quota_limit) == (4, True, 192)
    assert spot.price == pytest.approx(14.69 / 5)
    assert (box.kind, box.idle_s, box.state) == ("instance", 3600, "Running")


def test_what_cannot_be_used_says_why(found: World) -> None:
    played = found.fake.played
    played.usages["Standard NCADSA100v4 Family Cluster Dedicated vCPUs"] = (0, 0)
    played.compute += [
        cluster("broken", errors=[{"error": {"code": "ClusterCoreQuotaReached", "message": "x"}}]),
        cluster("none", most=0),
        cluster("new", state="Creating"),
    ]
    every = listed()
    assert "quota leaves 0 vCPUs" in every["gpu-cluster"].why_not()
    assert every["broken"].why_not() == "ClusterCoreQuotaReached"
    assert "no node" in every["none"].why_not()
    assert "Creating" in every["new"].why_not()


def test_a_region_that_tells_nothing_leaves_it_unknown(found: World) -> None:
    found.fake.fault(path="/locations/", status=403, code="AuthorizationFailed")
    big = listed()["gpu-cluster"]
    assert (big.gpus, big.price, big.quota_limit, big.why_not()) == (None, None, None, "")
    assert "quota" not in big.line()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT120S", 120),
        ("PT1H30M", 5400),
        ("P1DT2H", 93600),
        ("", None),
        ("PT", None),
        (None, None),
        ("x", None),
    ],
)
def test_durations(text: str | None, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


def test_one_is_made_only_when_agreed_to(
    found: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = str(make_lab(tmp_path / "lab", {}).root)
    words = ["compute", lab, "--create", "mine", "--size", "Standard_NC24ads_A100_v4", "--low-priority"]
    assert main([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "azure.agree"
    assert main([*words, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["idle_s"] == 600
    assert told["price"] == pytest.approx(3.67 / 5)
    assert not found.fake.seen(method="PUT", path="/computes/")
    assert main([*words, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["created"] is True
    assert listed()["mine"].low_priority
    assert main([*words, "--yes", "--json"]) == 2  # the name is taken


def test_one_that_azure_cannot_make_says_so(
    found: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compute, "BETWEEN_S", 0.0)
    found.fake.played.made = "Failed"
    lab = str(make_lab(tmp_path / "lab", {}).root)
    words = ["compute", lab, "--create", "mine", "--size", "Standard_NC24ads_A100_v4", "--yes", "--json"]
    assert main(words) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], "failed" in error["detail"]) == ("azure.compute", True)


def test_the_sizes_of_a_region_tell_their_price(
    found: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = str(make_lab(tmp_path / "lab", {}).root)
    assert main(["compute", lab, "--sizes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["location"] == "westeurope"
    assert [(each["name"], each["gpus"]) for each in told["sizes"]] == [
        ("Standard_NC24ads_A100_v4", 1),
        ("Standard_NC96ads_A100_v4", 4),
        ("Standard_DS3_v2", 0),
    ]
    assert main(["compute", lab, "--sizes"]) == 0
    assert "4 GPUs, 96 vCPUs, 768 GB, 14.69 USD an hour dedicated" in capsys.readouterr().out


def test_a_quota_of_nothing_refuses_a_new_one(
    found: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found.fake.played.usages["Standard NCADSA100v4 Family Cluster Dedicated vCPUs"] = (0, 0)
    lab = str(make_lab(tmp_path / "lab", {}).root)
    words = ["compute", lab, "--create", "mine", "--size", "Standard_NC24ads_A100_v4", "--yes", "--json"]
    assert main(words) == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "azure.quota"
    assert not found.fake.seen(method="PUT", path="/computes/")
