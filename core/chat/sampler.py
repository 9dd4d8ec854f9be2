"""The choice of the next token from the model's logits.

Done here and not in the runtime, so that settings can change between answers while what the model has
read stays in its cache (the runtime binds its search options to the cache), and one seed gives one
answer on every machine that computes the same logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.chat.settings import Sampling


def log_probabilities(logits: Any, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """The log probability that the model itself gives a token, and the ``count`` likeliest ones with theirs."""
    scores = np.asarray(logits, dtype=np.float64).reshape(-1)
    scores = scores - scores.max()
    scores -= np.log(np.exp(scores).sum())
    count = min(count, scores.size)
    best = np.argpartition(scores, -count)[-count:] if count else np.array([], dtype=np.int64)
    best = best[np.lexsort((best, -scores[best]))]  # likeliest first, ties by number
    return float(scores[token]), [(int(number), float(scores[number])) for number in best]


class Sampler:
    """Chooses tokens for one answer.

    Order as in Hugging Face's generation: repetition penalty (Keskar et al. 2019, CTRL, section 4.1),
    temperature, top-k, top-p (Holtzman et al. 2020), draw.
    """

    def __init__(self, settings: Sampling) -> None:
        self._settings = settings
        self._random = np.random.Generator(np.random.PCG64(settings.seed))

    @property
    def plain(self) -> bool:
        """The likeliest token is the choice, and the logits are not altered."""
        return self._settings.temperature == 0 and self._settings.repetition_penalty == 1

    def choose(self, logits: Any, seen: list[int]) -> int:
        """The next token.

        Args:
            logits: float array of the vocabulary's size, for the next position.
            seen: the tokens of prompt and answer so far, which the repetition penalty weakens.
        """
        settings = self._settings
        scores = np.asarray(logits, dtype=np.float32).reshape(-1)
        if settings.repetition_penalty != 1:
            scores = scores.copy()
            used = np.unique(np.asarray(seen, dtype=np.int64))
            used = used[used < scores.size]
            values = scores[used]
            scores[used] = np.where(
                values > 0, values / settings.repetition_penalty, values * settings.repetition_penalty
            )
        if settings.temperature == 0:
            return int(scores.argmax())
        kept = np.arange(scores.size)
        if settings.top_k < scores.size:
            kept = np.argpartition(scores, -settings.top_k)[-settings.top_k :]
        kept = kept[np.lexsort((kept, -scores[kept]))]  # likeliest first, ties by number
        weights = scores[kept].astype(np.float64) / settings.temperature
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        if settings.top_p < 1:
            count = int(np.searchsorted(np.cumsum(weights), settings.top_p)) + 1
            kept, weights = kept[:count], weights[:count]
        point = self._random.random() * weights.sum()
        return int(kept[min(int(np.searchsorted(np.cumsum(weights), point, side="right")), len(kept) - 1)])
