"""Nothing in a model's folder leads to a file elsewhere: links, weight indexes, the tokenizer's settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from core.errors import RequestError
from core.events import Reporter
from core.model.inside import leads_out
from core.model.sources import resolve_model
from tests.tiny_models import make_tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny("llama", tmp_path / "model")


def refusal(folder: Path) -> RequestError:
    with pytest.raises(RequestError) as caught:
        resolve_model(str(folder), folder, Reporter())
    return caught.value


@pytest.mark.parametrize("name", ["merges.txt", "model.safetensors", "additional_chat_templates/tool.jinja"])
def test_a_link_that_leads_out_is_refused_with_its_target(model: Path, tmp_path: Path, name: str) -> None:
    private = tmp_path / "id_ed25519"
    private.write_text("private")
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(private)
    error = refusal(model)
    assert error.code == "model.outside"
    assert name in error.detail
    assert str(private) in error.detail


def test_links_within_the_folder_and_into_the_hubs_cache_are_followed(model: Path, tmp_path: Path) -> None:
    (model / "config.json").rename(model / "real.json")
    (model / "config.json").symlink_to("real.json")
    resolve_model(str(model), tmp_path, Reporter())

    repo = tmp_path / "models--a--b"
    blobs, snapshot = repo / "blobs", repo / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(path for path in model.iterdir() if path.is_file()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    resolve_model(str(snapshot), tmp_path, Reporter())
    (snapshot / "merges.txt").symlink_to(tmp_path / "elsewhere")
    assert refusal(snapshot).code == "model.outside"


@pytest.mark.parametrize("absolute", [True, False])
def test_a_weight_index_that_leads_out_is_refused(model: Path, tmp_path: Path, absolute: bool) -> None:
    weights = load_file(model / "model.safetensors")
    elsewhere = tmp_path / "elsewhere.safetensors"
    save_file(weights, elsewhere, {"format": "pt"})
    (model / "model.safetensors").unlink()
    name = str(elsewhere) if absolute else "../elsewhere.safetensors"
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    error = refusal(model)
    assert (error.code, name in error.detail) == ("model.outside", True)


def test_a_vocabulary_elsewhere_is_refused_and_a_strangers_path_that_is_not_here_is_not(
    model: Path, tmp_path: Path
) -> None:
    file = model / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "special_tokens_map_file": "/home/author/tokens.json"}))
    resolve_model(str(model), tmp_path, Reporter())
    (tmp_path / "private.json").write_text("{}")
    file.write_text(json.dumps({**settings, "vocab_file": "../private.json"}))
    assert "vocab_file" in refusal(model).detail


@given(
    st.lists(st.sampled_from(["..", ".", "a", "weights.bin"]), min_size=1, max_size=5), st.sampled_from("/\\")
)
def test_what_does_not_lead_out_stays_below(parts: list[str], separator: str) -> None:
    assume(not leads_out(separator.join(parts)))
    folder = Path("/models/mine")
    assert folder.joinpath(*parts).resolve().is_relative_to(folder)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "C:\\x", "C:x", "\\\\host\\share\\x", "a/../b", "a\0b"])
def test_names_that_lead_out_on_any_system(name: str) -> None:
    assert leads_out(name)
