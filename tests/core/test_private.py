"""Modes of what is written, and passwords in addresses: nothing private is told or open to others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.azure.errors import redact
from core.azure.signin import Choice, remember
from core.check.types import FAIL, Check
from core.errors import MachineError
from core.events import JobReporter
from core.files import PRIVATE, as_umask_says, write_atomic, write_json
from core.lab import Lab
from core.text import without_logins

SECRET = "https://ada:hf_planted@mirror.example/x"


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield int(request.param)
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_every_file_obeys_the_umask(umask: int, tmp_path: Path) -> None:
    lab = Lab.create(tmp_path / "lab")
    assert mode(lab.folder.recipe_path) == 0o666 & ~umask
    weights = tmp_path / "w" / "model.safetensors"
    weights.parent.mkdir()
    weights.touch(0o600)
    as_umask_says(weights.parent)
    assert mode(weights) == 0o666 & ~umask
    assert os.umask(umask) == umask


def test_a_file_that_is_there_keeps_its_mode_and_a_private_one_is_private(umask: int, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, 1)
    file.chmod(0o640)
    write_atomic(file, "2")
    assert mode(file) == 0o640
    write_atomic(file, "3", PRIVATE)
    assert mode(file) == 0o600
    write_json(tmp_path / "b.json", 1, PRIVATE)
    assert mode(tmp_path / "b.json") == 0o600 & ~umask
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_who_is_signed_in_is_noted_for_the_user_alone(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLIVEPRESS_CONFIG", str(tmp_path / "config"))
    remember(Choice("cli"))
    assert mode(tmp_path / "config" / "azure.json") == 0o600
    assert mode(tmp_path / "config") == 0o700 & ~umask


def test_passwords_in_addresses_are_told_nowhere(tmp_path: Path) -> None:
    error = MachineError(f"{SECRET} is gone.", SECRET, SECRET)
    JobReporter(tmp_path, "quantize-001").log(f"Trying {SECRET}")
    check = Check("hub", FAIL, SECRET, SECRET)
    texts = [
        str(error), json.dumps(error.as_dict()), repr(error), redact(SECRET), json.dumps(check.as_dict()),
        *(path.read_text() for path in tmp_path.iterdir()),
    ]  # fmt: skip
    for text in texts:
        assert "planted" not in text
        assert "mirror.example" in text


@given(
    st.from_regex(r"[^/\s\"'<>@]{1,20}", fullmatch=True), st.from_regex(r"[^/\s\"'<>]{1,20}", fullmatch=True)
)
def test_no_login_of_any_form_is_left(user: str, password: str) -> None:
    assert without_logins(f"see https://{user}:{password}@host/a@b") == "see https://***@host/a@b"
