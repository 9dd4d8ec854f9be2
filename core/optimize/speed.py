"""How fast a quantized model answers on this machine: its ONNX model is built, asked, and thrown away."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from core.errors import MachineError
from core.files import folder_bytes
from core.language import told
from core.model.folder import model_facts, read_config
from core.stage_context import StageContext

PROMPT_TOKENS = 16


def decoding_speed(
    context: StageContext, checkpoint: Path, prompts: Sequence[Sequence[int]], tokens: int
) -> tuple[float, int]:
    """Tokens a second after the first, greedily, for the recipe's device and provider; and the ONNX model's bytes.

    Args:
        prompts: token rows; the beginnings of some are continued until there were so many ``tokens``.

    Raises:
        MachineError: this machine cannot build or run such models.
        StageError: it cannot be built, or fails while it answers.
    """
    from core.model.architectures import require
    from core.optimize.build import build_base, choose, context_limit
    from core.optimize.genai import complete_config, end_tokens
    from core.optimize.session import OnnxSession
    from core.optimize.targets import require_target

    optimize, config = context.recipe.optimize, read_config(checkpoint)
    require(config, str(checkpoint))
    target = require_target(optimize.device, optimize.provider, optimize.precision)
    if target.why:
        raise MachineError(told("Its ONNX model cannot be run here."), target.why, code="optimize.speed")
    work = context.work / "speed"
    try:
        folder, _ = build_base(
            checkpoint,
            choose(model_facts(checkpoint), optimize.precision, optimize.provider),
            device=optimize.device,
            provider=optimize.provider,
            base_digest="tried for its speed",
            work=work,
            report=context.report,
            trust_remote_code=context.recipe.model.trust_remote_code,
            places=optimize.adapters != "merged",
            share=optimize.embeddings == "shared",
        )
        complete_config(folder, end_tokens(checkpoint, context.recipe), context_limit(config))
        context.report.progress(told("Measuring the speed"), 0, None)
        session = OnnxSession(folder)
        session.answer(
            list(prompts[0][:PROMPT_TOKENS]), 4
        )  # the first answer makes ready what later ones have
        said, seconds = 0, 0.0
        for row in prompts[: 4 * tokens]:
            context.report.check_cancelled()
            answer = session.answer(list(row[:PROMPT_TOKENS]), tokens + 1)
            said += len(answer.ids) - 1
            seconds += answer.rest_s
            if said >= tokens:
                break
        if not said or not seconds:
            raise MachineError(
                told("Its speed cannot be measured."),
                told("It ends every answer with the first token."),
                code="optimize.speed",
            )
        return said / seconds, folder_bytes(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
