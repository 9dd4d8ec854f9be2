"""Tiny random-weight models of each supported architecture, as Hugging Face folders.

They have what the real ones have (fused or separate projections, grouped-query attention, biases,
tied embeddings, norms of ``1 + weight``, a tokenizer with chat tokens and a chat template) and load
in milliseconds. Their answers mean nothing.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

ARCHITECTURES = (
    "llama",
    "qwen2",
    "phi3",
    "mistral",
    "gemma",
    "smollm",
    "qwen3",
    "gemma2",
    "gemma3",
)

FURTHER = ("smollm3", "granite", "ernie4_5", "hunyuan", "olmo")
"""Architectures that only the tests of the ONNX graph look at; the last of them comes out wrong."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

SPECIAL_TOKENS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<unk>")

TEXT = """What should I see in Chicago? Walk along the lake, then take the elevated train to the museums.
Which city has the oldest underground railway? London has it, and it opened in the winter of 1863.
Where can I see the northern lights? Go to Iceland or the north of Norway between September and March.
How do I get from the airport to the centre of the town? There is a bus every ten minutes; the train is quicker.
Is it safe to drink the water there? Yes, the water from the tap is good in most of the country.
What is the best month for the coast? May and June are warm, and the beaches are not yet full of people.
Good morning. How are you today? I am well, thank you, and I hope that you are too.
"""


@functools.cache
def _tokenizer_json(vocab_size: int) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    return tokenizer.to_str()


def save_tokenizer(folder: Path, vocab_size: int = 384) -> int:
    """Write the byte-level BPE tokenizer with its chat template into ``folder``; returns its size."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json(vocab_size)),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(folder))
    return len(tokenizer)


def make_tiny(
    arch: str,
    folder: Path,
    seed: int = 0,
    tie: bool = False,
    hidden: int = 64,
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int | None = None,
    bias: bool | None = None,
    salient: int = 0,
    vocab_size: int = 384,
    dtype: str = "float32",
    **config_options: Any,
) -> Path:
    """Make a random-weight model folder.

    Args:
        arch: one of :data:`ARCHITECTURES` or :data:`FURTHER` ("smollm" is a Llama with tied embeddings).
        tie: tie the output matrix to the embeddings ("gemma" and "smollm" always do).
        kv_heads: fewer than ``heads`` for grouped-query attention, equal to it for none.
        bias: biases on q, k, v (and on o and the MLP where the architecture has the option). None:
            what the architecture does (Qwen2 has them on q, k, v). All biases get random values.
        salient: this many input channels of every norm are made ten times as large, which plants the
            uneven activations that large models have.
        dtype: of the saved weights: float32, float16 or bfloat16.
        config_options: further fields of the configuration.

    Returns:
        ``folder``.
    """
    import torch
    import transformers

    if arch not in ARCHITECTURES + FURTHER:
        raise ValueError(f"no tiny model of architecture {arch!r}; there are {ARCHITECTURES + FURTHER}")
    folder.mkdir(parents=True, exist_ok=True)
    size = save_tokenizer(folder, vocab_size)
    names = {
        "llama": "Llama",
        "smollm": "Llama",
        "qwen2": "Qwen2",
        "qwen3": "Qwen3",
        "phi3": "Phi3",
        "mistral": "Mistral",
        "gemma": "Gemma",
        "gemma2": "Gemma2",
        "gemma3": "Gemma3Text",
        "smollm3": "SmolLM3",
        "granite": "Granite",
        "ernie4_5": "Ernie4_5",
        "hunyuan": "HunYuanDenseV1",
        "olmo": "Olmo",
    }
    gemma = arch.startswith("gemma")
    options: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": hidden,
        "intermediate_size": intermediate or 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": tie or gemma or arch == "smollm",
    }
    if arch == "phi3":
        options["original_max_position_embeddings"] = 512
        options["sliding_window"] = None
    if arch == "mistral":
        options["sliding_window"] = None
    if arch == "smollm3":
        options["no_rope_layers"] = [int(layer % 2 == 0) for layer in range(layers)]
    if arch == "granite":
        options |= {"embedding_multiplier": 12.0, "attention_multiplier": 0.06, "logits_scaling": 8.0}
        options["residual_multiplier"] = 0.22
    if gemma or arch in ("qwen3", "ernie4_5", "hunyuan"):
        options["head_dim"] = hidden // heads
    if bias is not None and arch in ("llama", "smollm", "gemma", "gemma2", "gemma3", "qwen3"):
        options["attention_bias"] = bias
    if bias is not None and arch in ("llama", "smollm"):
        options["mlp_bias"] = bias
    options.update(config_options)
    config = getattr(transformers, names[arch] + "Config")(**options)
    family = "Gemma3" if arch == "gemma3" else names[arch]
    model_class = getattr(transformers, family + "ForCausalLM")

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = model_class(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0.0, 0.1)
            elif "norm" in name:
                # Gemma's norms multiply by 1 + weight, and start at 0.
                parameter.add_(0.1 * torch.randn_like(parameter))
                if salient and "layernorm" in name:
                    channels = torch.randperm(parameter.numel())[:salient]
                    parameter[channels] = 9.0 if gemma else 10.0
            elif parameter.dim() == 2:
                # Large enough that logits differ between tokens and greedy text is not a tie.
                parameter.normal_(
                    0.0, 0.5 if "embed" in name and not gemma else 1.5 / parameter.shape[1] ** 0.5
                )
    model.tie_weights()
    model = model.to(getattr(torch, dtype))
    model.generation_config.eos_token_id = [0, SPECIAL_TOKENS.index("<|end|>")]
    model.generation_config.pad_token_id = 0
    model.generation_config.bos_token_id = 0
    model.save_pretrained(str(folder))
    return folder
