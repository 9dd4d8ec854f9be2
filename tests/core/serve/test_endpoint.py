"""The scoring script on a registered model's folder, as an endpoint would run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from core.errors import RequestError
from core.recipe import Recipe, recipe_text
from core.serve import score
from core.serve.endpoint import Endpoint


def test_the_script_answers_in_openais_form(
    built_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "mounted" / "0123abcd"
    shutil.copytree(built_llama, model)
    (model / "lab.toml").write_text(recipe_text(Recipe().with_values({"chat.max_new_tokens": 5})))
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path / "mounted"))
    score.init()
    server = score._asked.pop()
    monkeypatch.setattr(score, "_asked", [server])
    try:
        asked = {"messages": [{"role": "user", "content": "one"}], "stream": True}
        answer = score.run(json.dumps(asked))
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["usage"]["completion_tokens"] <= 5
        assert "error" in score.run("no json")
    finally:
        server.close()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        Endpoint(tmp_path)
    assert caught.value.code == "upload.nothing"
