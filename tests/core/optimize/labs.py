"""Small labs for the optimize tests: a tiny model rounded by Olive's rtn pass, adapters of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.events import RecordingReporter
from core.folder import LabFolder
from core.model.auto import Settled
from core.optimize import stage as optimize
from core.stage_context import StageContext
from tests.recipes import settled
from tests.tiny_models import make_tiny

PROMPTS = (
    "<|user|>\nWhat should I see in Chicago?<|end|>\n<|assistant|>\n",
    "<|user|>\nWhere can I see the northern lights?<|end|>\n<|assistant|>\n",
    "<|user|>\nHow do I get from the airport to the town?<|end|>\n<|assistant|>\n",
    "<|user|>\nGood morning.<|end|>\n<|assistant|>\n",
    "The best month for the coast is",
)
NEW_TOKENS = 12
RECIPE = settled({"quantize.group_size": 32, "quantize.algorithm": "rtn"})


def recipe_with(values: dict[str, Any]) -> Settled:
    """:data:`RECIPE` with some other values."""
    return settled(values, base=RECIPE)


def quantized_lab(
    root: Path, arch: str, *, eight_bit: str = "", symmetric: bool = False, head_bits: int = 8, **options: Any
) -> LabFolder:
    """A lab whose ``models/quantized`` holds a tiny model with int4 layers and an int8 output matrix.

    Args:
        head_bits: of the output matrix.
        eight_bit: kinds of layers that have 8 bits too.
        symmetric: without zero points.
    """
    from core.olive.run import run_workflow, workflow
    from core.quantize.stage import eight_bit_layers

    lab = LabFolder(root)
    source = make_tiny(arch, root / "source", **options)
    wide = eight_bit_layers(recipe_with({"quantize.eight_bit_layers": eight_bit}), source)
    made = run_workflow(
        workflow(
            source,
            {
                "q": {
                    "type": "rtn",
                    "bits": 4,
                    "group_size": 32,
                    "sym": symmetric,
                    "lm_head": True,
                    "overrides": {"lm_head": {"bits": head_bits}, **{name: {"bits": 8} for name in wide}},
                }
            },
        ),
        work=root / "work",
        report=RecordingReporter(),
    )
    lab.models_dir.mkdir()
    made.model_path.rename(lab.quantized_dir)
    return lab


def add_adapter(lab: LabFolder, name: str, rank: int, seed: int = 0, **options: Any) -> None:
    """A PEFT adapter of random weights, B not zero, in ``models/finetuned``."""
    import torch

    from core.finetune.lora_layer import add_lora
    from core.olive.checkpoint import load_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_model(lab.quantized_dir, dtype=torch.float32)
        tuned = add_lora(model, rank=rank, alpha=2.0 * rank, **options)
        for key, parameter in tuned.named_parameters():
            if "lora_B" in key:
                parameter.data.normal_(0, 0.1)
        tuned.save_pretrained(str(lab.finetuned_dir(name)), save_embedding_layers=False)


def run_stage(lab: LabFolder, recipe: Settled = RECIPE) -> tuple[dict[str, Any], RecordingReporter]:
    """The stage as a job's worker runs it."""
    report = RecordingReporter()
    number = len(list(lab.models_dir.glob(".work-*")))
    work = lab.models_dir / f".work-{number}"
    work.mkdir(parents=True)
    prints = json.loads(json.dumps({"stage": "optimize", **optimize.fingerprint(lab, recipe)}))
    context = StageContext(lab, recipe, report, work, {"fingerprint": prints}, {})
    return optimize.run(context), report


def torch_texts(lab: LabFolder, adapter: str | None) -> list[list[int]]:
    """New tokens for :data:`PROMPTS` from PyTorch's own greedy generation, adapters by PEFT's own layers.

    The quantized weights are unpacked into plain linear layers first, so that nothing of ours
    computes here.
    """
    import torch
    from peft import PeftModel

    from core.model.load import load_tokenizer
    from core.olive.checkpoint import embed_by_output_matrix, load_model, unpack_linears
    from core.optimize.embedding import is_shared

    model = load_model(lab.quantized_dir, dtype=torch.float32)
    if is_shared(lab.onnx_dir):
        embed_by_output_matrix(model)
    unpack_linears(model, torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(lab.finetuned_dir(adapter))).eval()
    tokenizer = load_tokenizer(lab.quantized_dir)
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            whole = model.generate(input_ids=ids, do_sample=False, max_new_tokens=NEW_TOKENS)
        texts.append(whole[0, ids.shape[1] :].tolist())
    return texts


def onnx_texts(lab: LabFolder, adapter: str | None) -> list[list[int]]:
    """The same from onnxruntime-genai, as a chat would ask it."""
    import numpy as np
    import onnxruntime_genai as og

    model = og.Model(str(lab.onnx_dir))
    tokenizer = og.Tokenizer(model)
    adapters = og.Adapters(model)
    if adapter is not None:
        adapters.load(str(lab.adapter_file(adapter)), adapter)
    texts = []
    for prompt in PROMPTS:
        ids = np.asarray(tokenizer.encode(prompt), dtype=np.int32)
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + NEW_TOKENS, do_sample=False)
        generator = og.Generator(model, params)
        if adapter is not None:
            generator.set_active_adapter(adapters, adapter)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        texts.append([int(number) for number in generator.get_sequence(0)][len(ids) :])
    return texts
