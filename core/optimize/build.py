"""Building the ONNX base with our model builder pass, and making its graph ready for adapters.

Loads olive and torch: only for a job's process.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import StageError
from core.events import Reporter
from core.files import explained, read_json
from core.language import told
from core.model.folder import ModelFacts, model_facts, read_config
from core.olive.checkpoint import linear_modules
from core.optimize.adapters import EIGHT_BITS, AdapterLayout
from core.optimize.branches import add_branches, every_node, find_projections, plan_branches
from core.optimize.trusted import CONFIG_FILE

DIGEST_KEY = "olivepress.base"
MODEL_FILE = "model.onnx"
SMALL_MODEL = 100_000_000
"""Models with fewer weights in their layers compute with float32 activations, see :func:`choose`."""
SMALL_HEAD_BYTES = 64 * 2**20
"""A float output matrix up to this size stays float32, a larger one gets 8 bits."""

LOOKS_UP = {"cpu", "cuda"}
"""The providers on which looking embeddings up in a packed matrix was tried, as ``genai_config.json`` calls them."""

_LEFT_BY_OLIVE = ("footprint.json", "output_footprint.json", "run_history.txt", "model_config.json")
_DTYPES = {1: "float32", 10: "float16", 16: "bfloat16"}
_READING = re.compile(r"Reading layer (\d+)")


@dataclass(frozen=True)
class BuildChoice:
    """How a base is built.

    Attributes:
        builder_precision: what the builder is told: int4 for all quantized weights, whatever their bits.
        precision: what the weights in the layers have: int4, int8, fp16, bf16, fp32.
        accuracy_level: of MatMulNBits on the CPU: 1 float32 activations, 4 int8 ones; None elsewhere.
        head: of the output matrix: ``as quantized``, ``float``, or ``int8``.
    """

    builder_precision: str
    precision: str
    accuracy_level: int | None
    head: str

    def options(self) -> dict[str, Any]:
        """The options of the pass."""
        options: dict[str, Any] = {}
        if self.accuracy_level is not None:
            options["accuracy_level"] = self.accuracy_level
        if self.head == "int8":
            options["algo_config"] = "rtn_last"
        elif self.head == "float" and self.builder_precision == "int4":
            options["nodes_to_exclude"] = ["/lm_head/MatMul"]
        return {"precision": self.builder_precision, "options": options}


def choose(facts: ModelFacts, precision: str, provider: str) -> BuildChoice:
    """How to build from a checkpoint.

    A quantized checkpoint decides its precision itself. The CPU kernel for packed weights can round
    the activations of each block to int8 (accuracy level 4), which is several times as fast on large
    matrices and moves the logits by about a hundredth of their spread; a small model answers fast
    enough without that, and then agrees with PyTorch to the last few bits.

    An output matrix that the quantization left float would be cut to 4 bits by the builder. It
    stays float where it is small and gets 8 bits where it is large.
    """
    if facts.quantization is None:
        return BuildChoice(precision, precision, None, "float")
    bits = facts.bits or 4
    level = None
    if provider == "CPUExecutionProvider":
        ends = facts.vocab_size * facts.hidden_size * (1 if facts.tied_embeddings else 2)
        level = 1 if facts.parameters - ends < SMALL_MODEL else 4
    if facts.quantization.get("lm_head"):
        head = "as quantized"
    else:
        head = "float" if facts.vocab_size * facts.hidden_size * 4 <= SMALL_HEAD_BYTES else "int8"
    return BuildChoice("int4", f"int{bits}", level, head)


def build_base(
    checkpoint: Path,
    choice: BuildChoice,
    *,
    device: str,
    provider: str,
    base_digest: str,
    work: Path,
    report: Reporter,
    trust_remote_code: bool = False,
    places: bool = True,
    share: bool = True,
) -> tuple[Path, AdapterLayout]:
    """Build the ONNX model of a checkpoint.

    Args:
        places, share: for adapters, and the embeddings; see :func:`open_graph`.
        base_digest: stands for the weights and all else the base depends on; goes into ``model.onnx``,
            so that the digest of that file tells one base from another.
        work: scratch folder on the disk that the model will be published to.

    Returns:
        the folder with ``model.onnx``, its weights, ``genai_config.json`` and the tokenizer; the layout.

    Raises:
        StageError: the builder failed, or its graph is not as expected.
        MachineError: not enough memory or disk.
    """
    from core.olive.run import run_workflow, workflow

    layers = model_facts(checkpoint).layers

    def on_line(line: str) -> None:
        report.check_cancelled()
        match = _READING.match(line)
        if match:
            report.progress(told("Building the graph"), int(match[1]) + 1, layers)

    built = run_workflow(
        workflow(
            checkpoint,
            {"builder": {"type": "OlivePressModelBuilder", **choice.options()}},
            trust_remote_code=trust_remote_code,
            device=device,
            provider=provider,
        ),
        work=work,
        report=report,
        failure=told("The ONNX model could not be built."),
        on_line=on_line,
    )
    folder = built.model_path if built.model_path.is_dir() else built.model_path.parent
    for name in _LEFT_BY_OLIVE:
        (folder / name).unlink(missing_ok=True)
    report.progress(told("Adding places for adapters"), 0, None)
    return folder, open_graph(folder, checkpoint, base_digest, places=places, share=share)


def open_graph(
    folder: Path, checkpoint: Path, base_digest: str, *, places: bool = True, share: bool = True
) -> AdapterLayout:
    """Make a freshly built ``model.onnx`` ready for adapters and write their layout beside it.

    For CUDA, and where the kernels round activations to int8, adapters will be put inside the graph, in 8 bits if
    its own weights are packed; elsewhere it gets a branch with inputs at each projection, unless there are to be no
    ``places``. Embeddings that are the output matrix are looked up in it on :data:`LOOKS_UP`, if they are to
    ``share`` it.

    Raises:
        StageError: the graph has not a projection for every linear layer of the checkpoint.
    """
    import onnx

    from core.optimize.embedding import share_embedding
    from core.optimize.shrink import halve_embedding, without_long_rope

    path = folder / MODEL_FILE
    model = onnx.load(str(path), load_external_data=False)
    projections = find_projections(model.graph.node, model.graph.initializer)
    modules = linear_modules(checkpoint)
    planned = plan_branches(projections, modules, model_facts(checkpoint).attention_outputs)
    covered = {part.module for branch, _ in planned for part in branch.parts}
    uncovered = sorted(set(modules) - covered - {"lm_head", "model.embed_tokens"})
    if not planned or uncovered:
        raise StageError(
            told("The ONNX graph is not as expected."),
            told(
                "No node was found for {uncovered}.",
                uncovered=uncovered[0] if uncovered else told("any linear layer"),
            ),
            told("This architecture is not supported yet; llama, mistral, phi3, qwen and gemma models are."),
            code="optimize.graph",
        )
    cache = next(item for item in model.graph.input if item.name.startswith("past_key_values"))
    dtype = _DTYPES[cache.type.tensor_type.elem_type]
    packed = any(node.op_type == "MatMulNBits" for node in model.graph.node)
    whole = "cuda" in _providers(folder)
    inside = whole or (dtype == "float32" and _rounds_activations(model.graph))
    if places and not inside:
        add_branches(model, planned, dtype)
    if context_limit(read_config(checkpoint)):
        without_long_rope(model.graph)
    # Rounded by the builder alone, the output matrix would not be what PyTorch has.
    shared = (
        share
        and _providers(folder) <= LOOKS_UP
        and bool((model_facts(checkpoint).quantization or {}).get("lm_head"))
        and share_embedding(model, folder) > 0
    )
    if dtype == "float32" and not shared:
        halve_embedding(model, folder)
    onnx.helper.set_model_props(model, {DIGEST_KEY: base_digest})
    half = path.with_suffix(".half")
    with explained(path):
        onnx.save(model, str(half))
        os.replace(half, path)
    layout = AdapterLayout(
        EIGHT_BITS if inside and packed else dtype,
        tuple(branch for branch, _ in planned),
        {} if inside else None,
        dtype,
        whole,
    )
    if places:
        layout.save(folder)
    return layout


def _providers(folder: Path) -> set[str]:
    """The execution providers that a graph was built for, by the names that ``genai_config.json`` has for them."""
    config = read_json(folder / CONFIG_FILE)
    options = config["model"]["decoder"]["session_options"].get("provider_options", [])
    return {name for each in options for name in each}


def _rounds_activations(graph: Any) -> bool:
    """Whether the projections round activations to int8 (accuracy level 4)."""
    levels = (
        item.i
        for node in graph.node
        if node.op_type == "MatMulNBits"
        for item in node.attribute
        if item.name == "accuracy_level"
    )
    return 4 in levels


def linked_copy(folder: Path, target: Path) -> Path:
    """The same folder once more: links to its files, copies where the file system has no links. Returns ``target``.

    To change a file there, replace it by another.
    """
    for path in sorted(folder.rglob("*")):
        place = target / path.relative_to(folder)
        if not path.is_file():
            continue
        with explained(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place)
            except OSError:
                shutil.copyfile(path, place)
    return target


def exact_copy(folder: Path, work: Path) -> Path:
    """The same model with float32 activations, beside links to the same weights; for verification."""
    import onnx

    target = linked_copy(folder, work / "exact")
    model = onnx.load(str(folder / MODEL_FILE), load_external_data=False)
    for node in every_node(model.graph):
        for item in node.attribute:
            if node.op_type == "MatMulNBits" and item.name == "accuracy_level":
                item.i = 1
    (target / MODEL_FILE).unlink()  # a link, through which the original would be written
    onnx.save(model, str(target / MODEL_FILE))
    return target


def context_limit(config: Mapping[str, Any]) -> int | None:
    """The length up to which a graph is right however a text is read; None where that is the whole context.

    With long rope (Phi-3's ``longrope``) every position is turned otherwise as soon as a text is longer than the
    original context. What lies in the cache by then stays turned as before, and a conversation that grows, or a
    prompt that is read in pieces, goes wrong.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (rope.get("rope_type") or rope.get("type")) not in ("longrope", "su"):
        return None
    name = "original_max_position_embeddings"
    return int(config.get(name) or rope.get(name) or 0) or None
