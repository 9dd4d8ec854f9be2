"""The list of algorithms is the only one: an entry more is a choice everywhere."""

from __future__ import annotations

import subprocess
import sys

from core.algorithms import ALGORITHMS
from core.quantize.sample import can_sample

ADDED = """
from pathlib import Path
import core.algorithms as algorithms

algorithms.ALGORITHMS["half"] = algorithms.Algorithm(
    "Half - for this test", "It needs nothing.", {"type": "rtn", "half": True}, calibrated=True, search=2.0
)
from core.check.needs import Machine, stage_needs
from core.model.auto import resolve
from core.model.folder import config_facts
from core.quantize.stage import passes
from core.recipe import Recipe
from core.recipe import OPTIONS
from tui.screens.stage.texts import TEXTS
from tui.snapshot import Snapshot

CONFIG = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
          "vocab_size": 100, "model_type": "llama"}
recipe = Recipe().with_values({"quantize.algorithm": "half", "quantize.group_size": 32})
settled = resolve(recipe, None, None).recipe
made = passes(settled, Path("rows.json"), Path("model"))["quantize"]
assert (made["type"], made["half"], made["bits"]) == ("rtn", True, 4), made
assert made["data_config"], made
needs = stage_needs(config_facts(CONFIG), settled, Machine(gpu_free=0, cores=2))
assert needs["quantize"].seconds > 8
algorithm = OPTIONS["quantize"]["algorithm"]
assert list(algorithm.choices)[-1] == "half"
assert algorithm.words("half") == "Half - for this test"
assert TEXTS["quantize"].advice({"quantize.algorithm": "half"}, Snapshot()) == "It needs nothing."
print("all")
"""


def test_what_keeps_the_weights_has_no_pass() -> None:
    assert dict(ALGORITHMS["none"].olive) == {}
    assert not can_sample("none")


def test_an_algorithm_more_is_one_entry() -> None:
    done = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True, check=False)
    assert done.stdout == "all\n", done.stderr
