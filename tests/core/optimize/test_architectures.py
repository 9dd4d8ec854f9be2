"""Which models are refused before any work, and by which reason."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import RequestError
from core.model.architectures import ARCHITECTURES, REFUSED, TRIED, judge, require
from core.model.folder import read_config
from core.resources import rehearsal_model

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "num_attention_heads": 9,
}


def test_the_rehearsal_model_is_tried() -> None:
    assert judge(read_config(rehearsal_model())).state == TRIED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "olmo", "architectures": ["OlmoForCausalLM"]}, "norms"),
        ({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}, "experts"),
        ({"model_type": "zebra"}, "zebra: the ONNX builder does not know it"),
        ({"model_type": None}, "no model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "wrong with yarn rope"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "wrong with dynamic rope"),
        ({"head_dim": 24}, "24 wide"),
        ({"partial_rotary_factor": 0.3}, "rotated part of the heads is 19 wide"),
        (
            {
                "model_type": "gemma3_text",
                "architectures": ["Gemma3ForCausalLM"],
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default"},
                    "full_attention": {"rope_type": "yarn"},
                },
            },
            "yarn",
        ),
    ],
)
def test_what_comes_out_wrong_is_refused_by_its_reason(change: dict[str, Any], reason: str) -> None:
    verdict = judge({**LLAMA, **change})
    assert verdict.state == REFUSED
    assert reason in verdict.reason
    assert verdict.hint
    with pytest.raises(RequestError) as caught:
        require({**LLAMA, **change}, "a folder")
    assert reason in caught.value.detail


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"architectures": None},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
        {
            "model_type": "phi3",
            "architectures": ["Phi3ForCausalLM"],
            "hidden_size": 3072,
            "num_attention_heads": 24,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {"type": "longrope"},
        },
    ],
)
def test_what_is_right_is_not_refused(change: dict[str, Any]) -> None:
    assert judge({**LLAMA, **change}).state == TRIED


def test_every_refusal_has_a_reason_and_every_other_a_class() -> None:
    for name, each in ARCHITECTURES.items():
        assert bool(each.reason) == (each.state == REFUSED), name
        assert bool(each.model_class) == (each.state != REFUSED), name
