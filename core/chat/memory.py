"""How much memory a conversation takes: the keys and values of every token in every layer."""

from __future__ import annotations

from typing import Any

from core.errors import MachineError
from core.formats import human_bytes

SMALLEST = 64


def cache_bytes_per_token(config: dict[str, Any]) -> int:
    """Bytes that one token takes in the cache, from ``genai_config.json``.

    Two tensors (keys, values) a layer, of key-value heads times head size, four bytes each: the
    runtime's CPU caches are float32, others are at most that.
    """
    decoder = config.get("model", {}).get("decoder", {})
    sizes = [decoder.get(name, 0) for name in ("num_hidden_layers", "num_key_value_heads", "head_size")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return 0
    return int(2 * 4 * sizes[0] * sizes[1] * sizes[2])


def context_that_fits(
    config: dict[str, Any], wanted: int, lanes: int, free: int | None = None
) -> tuple[int, str]:
    """The longest context, up to ``wanted`` tokens, of which ``lanes`` caches fit in half of the free memory.

    Args:
        free: bytes; asked of the system if None.

    Returns:
        the tokens, and a sentence for the user if they are fewer than wanted (else empty).

    Raises:
        MachineError: there is no room for a conversation at all.
    """
    each = cache_bytes_per_token(config)
    if not each:
        return wanted, ""
    if free is None:
        import psutil

        free = int(psutil.virtual_memory().available)
    fits = free // 2 // (each * lanes)
    if fits >= wanted:
        return wanted, ""
    if fits < SMALLEST:
        raise MachineError(
            "There is too little memory for a conversation.",
            f"{human_bytes(free)} are free, and each token takes {human_bytes(each * lanes)}.",
            "Close other programs, or use a smaller model.",
        )
    return int(fits), f"Memory allows a context of {fits} tokens, not {wanted}: {human_bytes(free)} are free."
