"""Finding the workspace, and writing the choice down."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.azure import workspace as find
from core.azure.rest import Rest
from core.azure.signin import current
from core.errors import MachineError, RequestError
from core.lab import Lab
from tests.azure.conftest import World
from tests.azure.fake import SUBSCRIPTION
from tests.azure.labs import signed_in


@pytest.fixture
def rest(azure: World, monkeypatch: pytest.MonkeyPatch) -> Rest:
    signed_in(azure, monkeypatch)
    return Rest(current().credential)


@pytest.mark.parametrize("graph", [True, False])
def test_every_workspace_in_one_call_or_one_by_one(azure: World, rest: Rest, graph: bool) -> None:
    azure.fake.graph = graph
    found = find.workspaces(rest).found
    assert [item.name for item in found] == ["second-ws", "travel-ws"]
    assert found[1].resource_group == "rg-travel"
    assert found[1].subscription_name == "Workshop"
    assert bool(azure.fake.seen(path="providers/Microsoft.MachineLearning")) is not graph


def test_no_subscription_and_no_workspace_are_told_apart(azure: World, rest: Rest) -> None:
    azure.fake.workspaces.clear()
    with pytest.raises(MachineError) as caught:
        find.workspaces(rest)
    assert caught.value.title == "There is no Azure ML workspace in your subscriptions."
    assert "Other" in caught.value.detail
    azure.fake.subscriptions.clear()
    with pytest.raises(MachineError) as caught:
        find.workspaces(rest)
    assert caught.value.title == "This account sees no Azure subscription."


def test_missing_rights_everywhere_are_said_as_such(azure: World, rest: Rest) -> None:
    azure.fake.graph = False
    azure.fake.fault(path="/workspaces", status=403, code="AuthorizationFailed")
    with pytest.raises(MachineError, match="no right"):
        find.workspaces(rest)


def test_a_subscription_that_refuses_is_named(azure: World, rest: Rest) -> None:
    azure.fake.graph = False
    azure.fake.fault(path="33333333.*/workspaces", status=403, code="AuthorizationFailed")
    listed = find.workspaces(rest)
    assert [item.name for item in listed.found] == ["second-ws", "travel-ws"]
    assert listed.refused == ("Other",)


def test_filter_and_pick_by_words(azure: World, rest: Rest) -> None:
    found = find.workspaces(rest).found
    assert [item.name for item in found if item.matches("WORKSHOP travel")] == ["travel-ws"]
    assert find.pick(found, "rg-two").name == "second-ws"
    with pytest.raises(RequestError, match="Several workspaces fit"):
        find.pick(found, "workshop")
    with pytest.raises(RequestError, match="No workspace fits"):
        find.pick(found, "nowhere")


def test_the_choice_goes_into_the_recipe_and_comments_stay(tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab")
    path = lab.folder.recipe_path
    path.write_text(path.read_text().replace("[upload]", "# ask Grace before you change this\n[upload]"))
    find.choose(path, find.WorkspaceEntry("travel-ws", "rg-travel", SUBSCRIPTION))
    assert "# ask Grace before you change this" in path.read_text()
    upload = lab.recipe.upload
    assert (upload.workspace, upload.resource_group, upload.subscription) == (
        "travel-ws",
        "rg-travel",
        SUBSCRIPTION,
    )
    assert [p.name for p in lab.root.iterdir() if p.name.startswith(".lab")] == []
