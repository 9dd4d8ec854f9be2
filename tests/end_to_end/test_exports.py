"""Each form of the result, opened and asked by the other side's own code, says what the chat says."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core import Lab
from core.export.write import export
from tests import llama_cpp

QUESTION = "What should I see in Paris?"


@pytest.fixture(scope="module")
def said(built_rehearsal_lab: Path) -> dict[str | None, str]:
    """What the lab's chat answers, base and tuned."""
    found: dict[str | None, str] = {}
    with Lab.open(built_rehearsal_lab).chat(adapter=None) as chat:
        for adapter in (None, "travel"):
            chat.set_adapter(adapter)
            found[adapter] = chat.ask(QUESTION).answer.strip()
            chat.new()
    assert found[None] != found["travel"]
    return found


@pytest.fixture
def lab(built_rehearsal_lab: Path) -> Lab:
    return Lab.open(built_rehearsal_lab)


def by_transformers(folder: Path, **how: Any) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, **how)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **how)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    asked = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    answer = model.generate(**asked, max_new_tokens=64, do_sample=False)
    return str(tokenizer.decode(answer[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def test_onnx_by_its_own_program(lab: Lab, said: dict[str | None, str], tmp_path: Path) -> None:
    done = export(lab, "onnx", tmp_path / "out")
    assert done.notes == (), "the runtime's own tokenizer reads the question as the model was trained to"
    for adapter, words in (("travel", []), (None, ["--adapter", ""])):
        heard = subprocess.run(
            [sys.executable, "-I", str(tmp_path / "out/ask.py"), QUESTION, *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        assert heard.stdout.strip() == said[adapter]


def test_foundry_locals_folder_has_the_adapter_in_it(
    lab: Lab, said: dict[str | None, str], tmp_path: Path
) -> None:
    import onnxruntime_genai as og

    for adapter in ("travel", None):
        out = tmp_path / (adapter or "base")
        export(lab, "foundry-local", out, adapter=adapter)
        described = json.loads((out / "inference_model.json").read_text())
        assert described["Name"] == out.name
        prompt = described["PromptTemplate"]["prompt"].replace("{Content}", QUESTION)
        model = og.Model(str(out))
        tokenizer = og.Tokenizer(model)
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=128)
        generator = og.Generator(model, parameters)
        ids = tokenizer.encode(prompt)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        assert tokenizer.decode(generator.get_sequence(0)[len(ids) :]).strip() == said[adapter]


def test_merged_by_transformers(lab: Lab, said: dict[str | None, str], tmp_path: Path) -> None:
    export(lab, "merged", tmp_path / "out")
    assert by_transformers(tmp_path / "out") == said["travel"]
    assert not (tmp_path / "out/adapter_config.json").exists()


def test_merged_in_eight_bits_by_transformers(lab: Lab, said: dict[str | None, str], tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    export(lab, "merged", tmp_path / "out", type="int8")
    assert by_transformers(tmp_path / "out") == said["travel"]


@pytest.mark.parametrize(("adapter", "type"), [("travel", "model"), ("", "model"), ("travel", "int8")])
def test_peft_by_its_own_program(
    adapter: str,
    type: str,
    lab: Lab,
    said: dict[str | None, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if type == "int8":
        pytest.importorskip("compressed_tensors")
    export(lab, "peft", tmp_path / "out", type=type)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["ask.py", QUESTION, "--adapter", adapter])
    runpy.run_path(str(tmp_path / "out/ask.py"), run_name="__main__")
    assert capsys.readouterr().out.strip() == said[adapter or None]


def test_gguf_by_llama_cpp(lab: Lab, said: dict[str | None, str], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    export(lab, "gguf", tmp_path / "out")
    assert llama_cpp.answer(tmp_path / "out/model.gguf", QUESTION) == said["travel"]
    export(lab, "gguf", tmp_path / "four", type="q4_1")
    model, adapter = (tmp_path / "four" / name for name in ("model.gguf", "adapter.gguf"))
    assert llama_cpp.answer(model, QUESTION) == said[None]
    assert llama_cpp.answer(model, QUESTION, adapter) == said["travel"]


def test_gguf_by_transformers(lab: Lab, said: dict[str | None, str], tmp_path: Path) -> None:
    export(lab, "gguf", tmp_path / "out")
    answer = by_transformers(tmp_path / "out", gguf_file="model.gguf")
    assert answer.splitlines()[0] == said["travel"], "of the end tokens transformers takes one from the file"
    modelfile = (tmp_path / "out/Modelfile").read_text()
    assert modelfile.startswith("FROM ./model.gguf\n")
    assert "<|user|>" in modelfile


def test_the_script_makes_the_same_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Lab.create(tmp_path / "lab", settings={"finetune.steps": 7, "chat.system": 'He said: "no\\way"'})
    export(lab, "script", tmp_path / "lab.py")
    ran: list[str] = []

    class Chat:
        def __enter__(self) -> Chat:
            return self

        def __exit__(self, *_: object) -> None: ...

        def stream(self, question: str) -> list[str]:
            return ["an ", "answer"]

    def run(self: Lab, stage: str) -> Any:
        ran.append(stage)
        return type("Result", (), {"numbers": {}})

    monkeypatch.setattr(Lab, "run", run)
    monkeypatch.setattr(Lab, "chat", lambda self: Chat())
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(tmp_path / "lab.py"), run_name="__main__")
    assert capsys.readouterr().out.endswith("an answer\n")
    assert ran == ["quantize", "finetune", "optimize"]
    assert Lab.open(tmp_path / "lab-by-script").recipe == lab.recipe
