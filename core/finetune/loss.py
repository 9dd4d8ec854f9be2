"""The loss at trained positions only, a chunk of logits at a time.

Logits of 8 x 1024 tokens over 32064 words are 1 GiB in float32, and their gradient as much again.
Here only the positions that are learnt have logits, and never more than a chunk of them at once:
each chunk's gradient with respect to the hidden states is made beside its loss, and kept instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from core.finetune.memory import LOGITS_AT_ONCE
from core.finetune.rows import TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Head = Callable[[torch.Tensor], torch.Tensor]


def token_losses(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    """The cross entropies [n] of ``targets`` [n] under ``head(hidden)``, hidden [n, width].

    Differentiable with respect to ``hidden`` only: the head is frozen.
    """
    losses: torch.Tensor = _ChunkedLoss.apply(hidden, targets, head)
    return losses


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        losses = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device)
        words: int | None = None
        start = 0
        while start < len(targets):
            # The size of the vocabulary is known after the first, small chunk.
            size = max(16, LOGITS_AT_ONCE // words) if words else min(16, len(targets))
            part = slice(start, start + size)
            start += size
            with torch.set_grad_enabled(wanted):
                states = hidden[part].detach().requires_grad_(wanted)
                logits = head(states)
                words = logits.shape[-1]
                loss = functional.cross_entropy(logits.float(), targets[part], reduction="none")
                if gradient is not None:
                    # Each loss depends on its own states alone, so that of the sum is the gradient of each.
                    (gradient[part],) = torch.autograd.grad(loss.sum(), states)
            losses[part] = loss.detach()
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype)[:, None], None, None


class Measure:
    """Computes the losses of batches on one causal language model.

    The model's output layer is applied to the chosen hidden states only. Some architectures scale or
    cap their logits; what is known of that is applied, and a trial against the model's own logits
    decides whether this is the whole truth. If not, the model's own logits are used, all of them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._decoder = getattr(model, model.base_model_prefix)
        self.chosen_only = False

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [n, words] of hidden states [n, width], as the architecture makes them."""
        logits: torch.Tensor = self._model.get_output_embeddings()(states)
        config = self._model.config.get_text_config()
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / scale
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = torch.tanh(logits / cap) * cap
        return logits

    @torch.no_grad()
    def try_out(self, ids: torch.Tensor) -> bool:
        """Compare the short way with the model's own logits for ``ids`` [1, n]; keeps the answer."""
        was = self._model.training
        self._model.eval()
        try:
            own = self._model(input_ids=ids, use_cache=False).logits[0].float()
            short = self.head(self._hidden(ids)[0]).float()
        except (AttributeError, TypeError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            own, short = torch.zeros(1), torch.ones(1)
        finally:
            self._model.train(was)
        spread = float(own.std()) if own.numel() > 1 else 1.0
        self.chosen_only = own.shape == short.shape and bool(
            torch.allclose(own, short, atol=max(1e-5, 0.02 * spread), rtol=0.02)
        )
        return self.chosen_only

    def _hidden(self, ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    def __call__(self, batch: TokenBatch) -> torch.Tensor:
        """The sum of the losses over the batch's places; divide by ``len(batch.targets)`` for the mean."""
        return self.each(batch).sum()

    def each(self, batch: TokenBatch) -> torch.Tensor:
        """The loss at each of the batch's places."""
        if self.chosen_only:
            hidden = self._hidden(batch.input_ids)
            return token_losses(hidden.flatten(0, 1).index_select(0, batch.places), batch.targets, self.head)
        logits = self._model(input_ids=batch.input_ids, use_cache=False).logits
        chosen = logits.flatten(0, 1).index_select(0, batch.places)
        return functional.cross_entropy(chosen.float(), batch.targets, reduction="none")
