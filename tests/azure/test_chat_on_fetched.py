"""The end of the path: a real model goes to the workspace, comes back, and answers the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data import resolve_data_file
from core.files import digest
from core.lab import Lab
from tests.azure.conftest import World
from tests.azure.fake import SUBSCRIPTION
from tests.azure.labs import signed_in
from tests.azure.test_whole_path import olivepress, result

QUESTION = "What should I see in Chicago?"


def test_the_model_that_comes_back_answers_as_the_one_that_went(
    blobs: World, rehearsal_lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in(blobs, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    lab = Lab.open(rehearsal_lab)
    lab.set(
        {
            "upload.subscription": SUBSCRIPTION,
            "upload.resource_group": "rg-travel",
            "upload.workspace": "travel-ws",
        }
    )
    sent = result(olivepress("upload", str(lab.root), "--json"))
    said = blobs.fake.models["ft-for-travel"]["1"]["properties"]
    assert float(said["properties"]["olivepress.eval_loss"]) > 0
    assert said["properties"]["olivepress.data"] == digest(resolve_data_file(lab.recipe, lab.root))
    assert "olive-ai" in said["properties"]["olivepress.packages"]
    assert sent["id"].endswith("/models/ft-for-travel/versions/1")
    assert "ft-for-travel" in lab.folder.report_path.read_text()
    assert result(olivepress("upload", str(lab.root), "--json"))["bytes_sent"] == 0

    back = tmp_path / "back"
    result(olivepress("fetch", "ft-for-travel", str(back), "--lab", str(lab.root), "--json"))
    assert not list(back.rglob("report.html")), "a page from elsewhere is not one to open"
    first = result(olivepress("chat", str(lab.root), "--prompt", QUESTION, "--json"))
    again = result(olivepress("chat", str(back), "--prompt", QUESTION, "--json"))
    assert again["answer"] == first["answer"] != ""
    assert again["adapter"] == first["adapter"] == "travel"
