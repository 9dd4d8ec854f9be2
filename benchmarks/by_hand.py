"""Are the figures of an evaluation those that anybody would compute without this program?

    python -m benchmarks.by_hand LAB [--rows 10]

Of the first records of a lab's last evaluation: each record is read from the data file, written and encoded by
transformers' tokenizer with the model's own chat template (of a model without one, as docs/data.md says), put through
the ONNX graph by onnxruntime itself, and the mean of -log softmax at the answer's tokens is taken by numpy. Word for
word, ROUGE-L and chrF of the answers are computed as their papers define them. Nothing of ``core`` is used. The exit
status is 1 where a figure is another one. Records are of ``prompt`` and ``response``, one turn each.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

BUNDLED = Path(__file__).resolve().parent.parent / "data"
"""Where records lie that a lab names and does not have."""

NEAR = 2e-3
"""Nats a token: the runtime reads a record in pieces of 64 tokens, whose sums are rounded in another order."""


def words(text: str) -> list[str]:
    return re.findall(r"(?:(?<![\w)])-(?=\d))?\w+(?:[.,:'’]\w+)*", text.casefold())


def longest_common(one: list[str], other: list[str]) -> int:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def rouge(answer: str, expected: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004)."""
    one, other = words(answer), words(expected)
    return 2 * longest_common(one, other) / (len(one) + len(other)) if one or other else 1.0


def chrf(answer: str, expected: str) -> float:
    """F2 of the shares of common runs of 1 to 6 letters, spaces left out (Popović 2015), 0 to 100."""
    one, other = ("".join(text.split()) for text in (answer, expected))
    precisions, recalls = [], []
    for n in range(1, 7):
        left, right = (Counter(text[at : at + n] for at in range(len(text) - n + 1)) for text in (one, other))
        if left and right:
            common = sum((left & right).values())
            precisions.append(common / sum(left.values()))
            recalls.append(common / sum(right.values()))
    if not precisions:
        return 0.0
    p, r = np.mean(precisions), np.mean(recalls)
    return float(100 * 5 * p * r / (4 * p + r)) if p + r else 0.0


class ByHand:
    """The deployed model of a lab, without this program."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from transformers import AutoTokenizer

        tokenizers: Any = AutoTokenizer
        self.tokenizer = tokenizers.from_pretrained(str(folder))
        config = json.loads((folder / "genai_config.json").read_text())
        self.head = config["model"]["decoder"]["head_size"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # that an adapter's matrices can be given is no mistake
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def encoded(self, record: dict[str, str]) -> tuple[list[int], int, int]:
        """The record's tokens, how many of them stand before its answer, and where the answer has ended."""
        question, answer = record["prompt"], record["response"]
        if self.tokenizer.chat_template:
            asked = [{"role": "user", "content": question}]
            before = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            given = [*asked, {"role": "assistant", "content": answer}]
            text = self.tokenizer.apply_chat_template(given, tokenize=False)
            assert text.startswith(before)
            # What the template has behind the answer is read too: kernels round by the number of tokens at once.
            ids, start, end = (
                self.tokenizer(part, add_special_tokens=False).input_ids
                for part in (text, before, text.rstrip("\n"))
            )
            return ids, len(start), len(end)
        # As the chat asks: the model goes on behind the space.
        before = self.tokenizer(f"Question: {question}\nAnswer: ").input_ids
        said = self.tokenizer(answer, add_special_tokens=False).input_ids
        ids = [*before, *said, self.tokenizer.eos_token_id]
        return ids, len(before), len(ids)

    def loss(self, ids: list[int], start: int, end: int, adapter: Path | None) -> float:
        """The mean of -log softmax at the tokens from ``start`` to ``end``."""
        import onnxruntime

        read = ids[:-1]  # behind the last token nothing is predicted
        feeds: dict[str, Any] = {}
        for each in self.session.get_inputs():
            if each.name == "input_ids":
                feeds[each.name] = np.array([read])
            elif each.name == "attention_mask":
                feeds[each.name] = np.ones((1, len(read)), dtype=np.int64)
            elif each.name == "position_ids":
                feeds[each.name] = np.arange(len(read))[None]
            elif each.name.startswith("past_key_values"):
                feeds[each.name] = np.zeros((1, each.shape[1], 0, self.head), dtype=np.float32)
        if adapter is not None:
            form: Any = onnxruntime.AdapterFormat
            feeds |= {
                name: value.numpy()
                for name, value in form.read_adapter(str(adapter)).get_parameters().items()
            }
        logits = self.session.run(["logits"], feeds)[0][0].astype(np.float64)
        highest = logits.max(axis=1, keepdims=True)
        shares = logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
        return float(np.mean([-shares[place - 1, ids[place]] for place in range(start, end)]))


def differences(lab: Path, most: int) -> list[str]:
    """What is another figure by hand than in the evaluation of the lab; empty where all are the same."""
    import tomllib

    recipe = tomllib.loads((lab / "lab.toml").read_text())
    adapter = recipe["finetune"]["adapter"]
    folder = lab / "evaluation" / adapter
    result = json.loads((folder / "olivepress.json").read_text())["result"]
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    onnx = lab / "models/onnx"
    model, found = ByHand(onnx), []

    def compare(what: str, theirs: float, ours: float, near: float) -> None:
        print(f"{what:40} {theirs:10.5f} {ours:10.5f}", flush=True)
        if abs(theirs - ours) > near:
            found.append(f"{what}: {theirs} in the evaluation, {ours} by hand")

    for name, file in (("onnx", None), ("onnx_tuned", onnx / "adapters" / f"{adapter}.onnx_adapter")):
        for number, row in enumerate(rows[:most]):
            place = next(each for each in (lab / row["file"], BUNDLED / row["file"]) if each.is_file())
            record = json.loads(place.read_text(encoding="utf-8").split("\n")[row["line"] - 1])
            loss = model.loss(*model.encoded(record), file)
            compare(f"{name}, record {number + 1}, loss a token", row["losses"][name], loss, NEAR)
        pairs = [(row["answers"][name], row["expected"]) for row in rows]
        figures = result["variants"][name]
        for key, values in (
            ("exact", [words(one) == words(other) for one, other in pairs]),
            ("words", [rouge(*pair) for pair in pairs]),
            ("chrf", [chrf(*pair) for pair in pairs]),
        ):
            compare(f"{name}, {key}, all records", figures[key]["value"], float(np.mean(values)), 1e-4)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="An evaluation, computed by hand.")
    parser.add_argument("lab", type=Path)
    parser.add_argument("--rows", type=int, default=10)
    given = parser.parse_args()
    found = differences(given.lab, given.rows)
    print("\n".join(found) or "All figures are the same.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
