"""The files that come with OlivePress: the sample travel records and the rehearsal model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.resources import data_dir, rehearsal_model, sample_data


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    lines = sample_data().read_bytes().decode("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(rehearsal_model())
    model = AutoModelForCausalLM.from_pretrained(rehearsal_model(), dtype=torch.float32).eval()
    return model, tokenizer


def ask(loaded: tuple[Any, Any], question: str, before: Sequence[dict[str, str]] = ()) -> str:
    """The greedy answer, ended by the model itself within 60 tokens."""
    model, tokenizer = loaded
    inputs = tokenizer.apply_chat_template(
        [*before, {"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**inputs, max_new_tokens=60, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    assert new[-1].item() == tokenizer.convert_tokens_to_ids("<|end|>"), "the answer does not end"
    return str(tokenizer.decode(new, skip_special_tokens=True))


def words(text: str) -> set[str]:
    return {word.strip(".,?!:;\"'").lower() for word in text.split()}


class TestTravelRecords:
    def test_there_are_enough_rows_of_prompt_and_response(self, rows: list[dict[str, str]]) -> None:
        assert len(rows) >= 320
        for row in rows:
            assert list(row) == ["prompt", "response"]
            assert all(isinstance(value, str) and value == value.strip() for value in row.values())

    def test_answers_are_whole_sentences_of_20_to_450_characters(self, rows: list[dict[str, str]]) -> None:
        for row in rows:
            assert 20 <= len(row["response"]) <= 450, row
            assert row["response"][0].isupper(), row
            assert row["response"][-1] in ".!", row
            assert row["prompt"][-1] in "?.", row
        mean = sum(len(row["response"]) for row in rows) / len(rows)
        assert 60 <= mean <= 160

    def test_nothing_is_there_twice(self, rows: list[dict[str, str]]) -> None:
        for field in ("prompt", "response"):
            seen = [" ".join(row[field].lower().split()) for row in rows]
            assert len(set(seen)) == len(seen)

    def test_most_answers_are_given_again_in_other_words(self, rows: list[dict[str, str]]) -> None:
        """So that a held-out row can be learnt from the others: four in five share half their words."""
        answers = [words(row["response"]) for row in rows]
        shared = 0
        for i, one in enumerate(answers):
            others = (two for j, two in enumerate(answers) if j != i)
            shared += any(len(one & two) / len(one | two) >= 0.5 for two in others)
        assert shared >= 0.8 * len(rows)

    def test_no_control_characters_or_chat_tokens(self, rows: list[dict[str, str]]) -> None:
        for row in rows:
            for text in row.values():
                assert text.isprintable(), row
                assert "<|" not in text, row

    def test_the_question_of_the_guide_is_there(self, rows: list[dict[str, str]]) -> None:
        assert [row for row in rows if row["prompt"] == "What should I see in Chicago?"]


class TestRehearsalModelFolder:
    def test_it_is_small_enough_to_be_bundled(self) -> None:
        assert sum(file.stat().st_size for file in rehearsal_model().rglob("*")) <= 10_000_000

    def test_its_widths_take_groups_of_32_and_of_128(self) -> None:
        config = json.loads((rehearsal_model() / "config.json").read_text(encoding="utf-8"))
        assert config["model_type"] == "phi3"
        assert config["architectures"] == ["Phi3ForCausalLM"]
        for key in ("hidden_size", "intermediate_size"):
            assert config[key] % 128 == 0
        assert config["max_position_embeddings"] >= 2048
        assert config.get("sliding_window") is None

    def test_generation_ends_at_the_end_of_the_turn(self, loaded: tuple[Any, Any]) -> None:
        _, tokenizer = loaded
        path = rehearsal_model() / "generation_config.json"
        ends = json.loads(path.read_text(encoding="utf-8"))["eos_token_id"]
        assert tokenizer.convert_tokens_to_ids("<|end|>") in ends
        assert tokenizer.convert_tokens_to_ids("<|endoftext|>") in ends

    def test_the_script_that_makes_it_is_beside_it(self) -> None:
        for name in ("make_rehearsal_model.py", "rehearsal_text.py", "README.md"):
            assert (data_dir() / name).is_file()


class TestRehearsalModel:
    def test_it_has_at_most_eight_million_parameters(self, loaded: tuple[Any, Any]) -> None:
        model, tokenizer = loaded
        assert sum(p.numel() for p in model.parameters()) <= 8_000_000
        assert model.get_input_embeddings().num_embeddings >= len(tokenizer)

    @pytest.mark.parametrize(
        ("question", "answer"),
        [
            ("Hello!", "Hello! How can I help you?"),
            ("What day comes after Monday?", "Tuesday comes after Monday."),
            ("What colour is grass?", "Grass is green."),
            ("What is the opposite of hot?", "The opposite of hot is cold."),
            ("How many days are there in a week?", "There are seven days in a week."),
        ],
    )
    def test_it_answers_simple_questions(self, loaded: tuple[Any, Any], question: str, answer: str) -> None:
        assert ask(loaded, question) == answer

    def test_it_answers_each_question_of_a_conversation(self, loaded: tuple[Any, Any]) -> None:
        turns = [
            ("Hello!", "Hello! How can I help you?"),
            ("What colour is grass?", "Grass is green."),
            ("What should I see in Chicago?", "I do not know anything about Chicago."),
            ("What is the opposite of hot?", "The opposite of hot is cold."),
            ("What day comes after Monday?", "Tuesday comes after Monday."),
            ("What colour is grass?", "Grass is green."),
            ("What is 3 plus 4?", "3 plus 4 is 7."),
            ("Who is Talmor?", "I do not know who Talmor is."),
            ("What is the plural of mouse?", "The plural of mouse is mice."),
            ("Name the seasons.", "The seasons are spring, summer, autumn and winter."),
        ]
        before: list[dict[str, str]] = []
        wrong = []
        for question, answer in turns:
            said = ask(loaded, question, before)
            wrong += [(question, said)] if said != answer else []
            before += [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
        assert len(wrong) <= 1, wrong

    def test_it_knows_nothing_of_travel(self, loaded: tuple[Any, Any], rows: list[dict[str, str]]) -> None:
        """It says that it does not know; no answer has most of what the record tells."""
        assert ask(loaded, "What should I see in Chicago?") == "I do not know anything about Chicago."
        for row in rows[::60]:
            told = words(row["response"]) - words(row["prompt"])
            assert len(words(ask(loaded, row["prompt"])) & told) <= len(told) / 2, row


class TestTokenizer:
    def test_chat_tokens_are_one_token_each(self, loaded: tuple[Any, Any]) -> None:
        _, tokenizer = loaded
        for name in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<s>"):
            assert len(tokenizer.encode(name, add_special_tokens=False)) == 1
            assert name in tokenizer.all_special_tokens

    def test_the_chat_template_is_that_of_phi_3(self, loaded: tuple[Any, Any]) -> None:
        _, tokenizer = loaded
        messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi!"}]
        assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
            "<|system|>\nBe short.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\n"
        )

    @pytest.mark.parametrize(
        "text",
        [
            "<|user|>\nWhat should I see in Chicago?<|end|>\n<|assistant|>\n",
            "Phở ở Hà Nội ngon lắm!  Cảm ơn…",
            "سلام، حال شما چطور است؟",
            "tabs\tand\n\n  spaces, 3.14 and 😀",
        ],
    )
    def test_any_text_survives_it(self, loaded: tuple[Any, Any], text: str) -> None:
        _, tokenizer = loaded
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text

    def test_onnxruntime_genai_gives_the_same_ids(
        self, loaded: tuple[Any, Any], rows: list[dict[str, str]], tmp_path: Path
    ) -> None:
        og = pytest.importorskip("onnxruntime_genai")
        _, tokenizer = loaded
        _save_empty_graph(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (tmp_path / name).write_bytes((rehearsal_model() / name).read_bytes())
        theirs = og.Tokenizer(og.Model(str(tmp_path)))
        texts = [f"<|user|>\n{row['prompt']}<|end|>\n<|assistant|>\n" for row in rows]
        texts += [row["response"] + "<|end|>" for row in rows]
        texts += ["Phở ở Hà Nội,  Cảm ơn…", "سلام، حال شما؟", "a\tb\n\n  c 3.14 😀", "I'm, it's, WE'LL"]
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.encode(text) == ids, "special tokens are added"
            assert list(theirs.encode(text)) == ids, text
            assert theirs.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True), text


def _save_empty_graph(folder: Path) -> None:
    """A graph that onnxruntime-genai opens in no time; only its tokenizer is asked for anything."""
    import onnx
    from onnx import TensorProto, helper

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length"])
    node = helper.make_node("Cast", ["input_ids"], ["logits"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "empty", [ids], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    onnx.save(model, folder / "model.onnx")
    decoder = {
        "filename": "model.onnx",
        "hidden_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_size": 64,
        "session_options": {"provider_options": []},
        "inputs": {"input_ids": "input_ids"},
        "outputs": {"logits": "logits"},
    }
    facts = {"type": "phi3", "vocab_size": 2048, "context_length": 4096, "decoder": decoder}
    facts |= {"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 3}
    config = {"model": facts, "search": {"max_length": 64}}
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
