"""Make the rehearsal model: a very small language model of the Phi-3 architecture.

    python data/make_rehearsal_model.py                    # writes data/rehearsal_model
    python data/make_rehearsal_model.py --out FOLDER --seconds 60

It has Phi-3's fused projections, chat tokens and chat template, so it goes through exactly the code
that Phi-3.5-mini goes through, in seconds in place of minutes. It is for rehearsing the lab and good
for nothing else. The tokenizer learns its words from the rehearsal text and from the sample travel
records; the weights see the rehearsal text only.

Seeded: the same machine, package versions and number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rehearsal_text

if TYPE_CHECKING:
    import torch
    from transformers import Phi3ForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
TRAVEL = HERE / "data_sample_travel.jsonl"

VOCABULARY = 2048
CONTEXT = 4096
LAYERS, HIDDEN, INTERMEDIATE, HEADS = 4, 256, 640, 4
"""Every width divides by 128, so that groups of 32, 64 and 128 weights all work."""

STEPS, TOKENS_PER_STEP, ECHOES, PEAK_LR, THREADS, SEED = 1500, 1600, 1000, 2e-3, 1, 20
PROMPT_WEIGHT = 0.02
"""How much the question's own tokens count in the loss, against 1 for the answer's."""
MOST_TURNS = 24
"""Turns of the longest conversations that are trained on, some 700 tokens."""

Row = tuple[list[int], list[bool]]
"""A conversation's token ids, and for each whether it is part of an answer."""

# Phi-3's own names. The placeholders are there because its tokenizer has them.
SPECIAL = (  # noqa: SIM905
    "<unk> <s> </s> <|endoftext|> <|assistant|> <|placeholder1|> <|placeholder2|> <|placeholder3|> "
    "<|placeholder4|> <|system|> <|end|> <|placeholder5|> <|placeholder6|> <|user|>"
).split()

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer and save it into ``folder``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [text for pair in rehearsal_text.pairs() for text in pair]
    if TRAVEL.exists():
        for line in TRAVEL.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts += [row["prompt"], row["response"]]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL],
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        additional_special_tokens=[name for name in SPECIAL if name.startswith("<|")],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast) -> Phi3ForCausalLM:
    """The untrained model, of float32 weights."""
    from transformers import Phi3Config, Phi3ForCausalLM

    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    config = Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=CONTEXT,
        sliding_window=None,
        initializer_range=HIDDEN**-0.5,
        tie_word_embeddings=False,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    model = Phi3ForCausalLM(config)
    plant_copying(model)
    ends = [ids["<|endoftext|>"], ids["<|end|>"]]
    model.generation_config.bos_token_id = ids["<s>"]
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def plant_copying(model: Phi3ForCausalLM) -> None:
    """Give the untrained model what a large one finds by itself: to take up words of the question.

    Two layers do it (Olsson et al. 2022, "In-context Learning and Induction Heads"). A head of the
    first layer looks one token back and writes what it sees beside the token. Three heads of the
    second look for where the present token stands so, that is for what followed it before, and
    propose that. Left to chance this would take longer to be found than all the rest of the training.
    """
    import torch

    width, beside = HIDDEN // HEADS, HIDDEN - HIDDEN // HEADS
    layers = model.model.layers
    with torch.no_grad():
        for layer in layers:
            layer.self_attn.o_proj.weight.mul_((2 * LAYERS) ** -0.5)
            layer.mlp.down_proj.weight.mul_((2 * LAYERS) ** -0.5)
        # Embeddings: a constant, the token itself, and room for the token before it. The output
        # matrix is a small copy of them, so what a head proposes comes out.
        embed = model.model.embed_tokens.weight.normal_(0.0, 0.5)
        embed[:, 0], embed[:, beside:] = 1.0, 0.0
        model.lm_head.weight.copy_(embed / 16)
        spread = torch.linalg.qr(torch.randn(beside - 1, beside - 1)).Q

        # Phi-3's rotary embedding turns the pair (i, i + width / 2) by position * 10000^(-2i / width).
        # Fast pairs tell neighbours apart: a query turned back by one step meets the key before it.
        fast, half = 12, width // 2
        angle = 10000.0 ** (-torch.arange(fast) / half)
        qkv, out = layers[0].self_attn.qkv_proj.weight, layers[0].self_attn.o_proj.weight
        query, key, value = qkv[:width], qkv[HIDDEN : HIDDEN + width], qkv[2 * HIDDEN :][:width]
        for part in (query, key, value):
            part.mul_(0.1)
        query[:fast, 0], query[half : half + fast, 0] = 3 * angle.cos(), -3 * angle.sin()
        key[:fast, 0] = 3.0
        value[:, 1:beside] = spread[:width]
        out[:, :width] *= 0.1
        out[beside:, :width] = 0.5 * torch.eye(width)

        # Slow pairs hardly turn within a conversation: they compare tokens.
        qkv, out = layers[1].self_attn.qkv_proj.weight, layers[1].self_attn.o_proj.weight
        slow = torch.cat([torch.arange(half // 2, half), torch.arange(half + half // 2, width)])
        for head in range(3):
            rows = slice(head * width, (head + 1) * width)
            query, key, value = (qkv[part * HIDDEN :][rows] for part in range(3))
            for part in (query, key, value):
                part.mul_(0.1)
            mix = 1.9 * torch.linalg.qr(torch.randn(width, width)).Q[: len(slow)]
            query[slow, 1:beside] = mix @ spread[:width]
            key[slow, beside:] = mix
            seen = spread[head * width : (head + 1) * width]
            value[: len(seen), 1:beside] = seen
            out[:, rows] *= 0.1
            out[1:beside, rows][:, : len(seen)] = 2 * seen.T


def question_text(question: str) -> str:
    """A question as the chat template writes it, up to where the answer begins."""
    return f"<|user|>\n{question}<|end|>\n<|assistant|>\n"


def encode(tokenizer: PreTrainedTokenizerFast, turns: Sequence[rehearsal_text.Pair]) -> Row:
    """Token ids of a conversation, and for each whether it is part of an answer."""
    ids: list[int] = []
    answers: list[bool] = []
    for question, said in turns:
        # The template puts a line's end behind each answer; the model stops before it.
        asked = question_text(question) if not ids else "\n" + question_text(question)
        for text, counts in ((asked, False), (said + "<|end|>", True)):
            part = tokenizer.encode(text, add_special_tokens=False)
            ids += part
            answers += [counts] * len(part)
    return ids, answers


def conversations(
    pairs: Sequence[rehearsal_text.Pair], rng: random.Random
) -> list[list[rehearsal_text.Pair]]:
    """Half of the pairs each by itself, the others in conversations of 2 to ``MOST_TURNS`` turns.

    A turn has nothing to do with those before it, which is what the model is to learn: what it
    answers follows from the last question. Now and then a question comes again.
    """
    pairs = rng.sample(pairs, len(pairs))
    half = len(pairs) // 2
    made = [[pair] for pair in pairs[:half]]
    rest = pairs[half:]
    while rest:
        count = rng.randint(2, MOST_TURNS)
        turns, rest = rest[:count], rest[count:]
        if rng.random() < 0.3:
            turns.append(rng.choice(turns))
        made.append(turns)
    return made


def batches(rows: list[Row], rng: random.Random) -> list[list[Row]]:
    """Rows of about the same length together, ``TOKENS_PER_STEP`` a batch, in random order."""
    rows = sorted(rows, key=lambda row: (len(row[0]), rng.random()))
    made: list[list[Row]] = [[]]
    for row in rows:
        if made[-1] and (len(made[-1]) + 1) * len(row[0]) > TOKENS_PER_STEP:
            made.append([])
        made[-1].append(row)
    rng.shuffle(made)
    return made


def loss_of(model: Any, batch: list[Row], prompt_weight: float) -> torch.Tensor:
    """Mean cross-entropy of a batch, in nats a token; the questions' tokens count as given."""
    import torch
    from torch.nn.functional import cross_entropy

    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    weight = torch.zeros(len(batch), width)
    for i, (row, answers) in enumerate(batch):
        ids[i, : len(row)] = torch.tensor(row)
        weight[i, : len(row)] = torch.tensor([1.0 if counts else prompt_weight for counts in answers])
    # Padding stands on the right, and attention looks to the left only: no mask is needed.
    logits = model(input_ids=ids).logits[:, :-1]
    each = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = weight[:, 1:].flatten()
    return (each * weight).sum() / weight.sum()


def train(model: Any, tokenizer: PreTrainedTokenizerFast, steps: int, seconds: float) -> None:
    """Train in place: AdamW, linear warm-up, cosine decay.

    Args:
        steps: how many steps; a step is a batch of about ``TOKENS_PER_STEP`` tokens.
        seconds: where not 0, train this long instead and fit the decay to it. For trying things: the
            result then depends on how fast the machine is.
    """
    import torch

    kept = [pair for pair in rehearsal_text.pairs() if not rehearsal_text.held_out(pair)]
    aside = [pair for pair in rehearsal_text.pairs() if rehearsal_text.held_out(pair)]
    evaluation = [encode(tokenizer, [pair]) for pair in aside]
    talk = [encode(tokenizer, aside[place : place + 20]) for place in range(0, len(aside), 20)]
    words = [tokenizer.decode([i]) for i in range(len(SPECIAL), len(tokenizer))]
    words = [word for word in words if "\ufffd" not in word]
    drilled = [encode(tokenizer, [pair]) for pair in rehearsal_text.echoes(words, 60, seed=0)]
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    groups = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98), eps=1e-8)
    rng = random.Random(SEED)
    queue: list[list[Row]] = []
    model.train()
    start, part, epoch = time.monotonic(), 0.0, 0
    running, step, tokens = 0.0, 0, 0
    while part < 1.0:
        if not queue:
            drills = rehearsal_text.echoes(words, ECHOES, seed=SEED + epoch)
            queue = batches([encode(tokenizer, turns) for turns in conversations(kept + drills, rng)], rng)
            epoch += 1
        batch = queue.pop()
        rate = PEAK_LR * min(1.0, (step + 1) / 60) * (0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch, PROMPT_WEIGHT)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        tokens += sum(len(ids) for ids, _ in batch)
        running += (loss.item() - running) * max(0.05, 1 / step)
        took = time.monotonic() - start
        part = took / seconds if seconds else step / steps
        if step % 50 == 0 or part >= 1.0:
            model.eval()
            with torch.no_grad():
                aside_loss = loss_of(model, evaluation, 0.0).item()
                talk_loss = loss_of(model, talk, 0.0).item()
                drill_loss = loss_of(model, drilled, 0.0).item()
            model.train()
            print(
                f"step {step} epoch {epoch} loss {running:.4f} held-out {aside_loss:.4f} "
                f"in a row {talk_loss:.4f} drills {drill_loss:.4f} "
                f"{tokens / took:.0f} tokens/s {took:.0f} s",
                flush=True,
            )
    model.eval()


def answer(model: Any, tokenizer: PreTrainedTokenizerFast, question: str, before: str = "") -> str:
    """The greedy answer to a question, after the text of what was said before."""
    import torch

    ids = tokenizer(before + question_text(question), return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=60, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def report(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Print how many trained and held-out questions are answered word for word, and a few answers."""
    rng = random.Random(SEED)
    pairs = rehearsal_text.pairs()
    aside = [pair for pair in pairs if rehearsal_text.held_out(pair)][:60]
    kept = rng.sample([pair for pair in pairs if not rehearsal_text.held_out(pair)], 60)
    for name, some in (("trained on", kept), ("held out", aside)):
        right = sum(answer(model, tokenizer, question) == said for question, said in some)
        print(f"{name}: {right} of {len(some)} answered word for word")
    for name, some in (("trained on", kept), ("held out", aside)):
        by_turn = [0] * 10
        for place in range(0, len(some), 10):
            before = ""
            for turn, (question, said) in enumerate(some[place : place + 10]):
                got = answer(model, tokenizer, question, before)
                by_turn[turn] += got == said
                before += question_text(question) + got + "<|end|>\n"
        print(f"{name}, ten in a row: right at each turn {by_turn} of {len(some) // 10}")
    for question in (
        "Hello!",
        "What day comes after Monday?",
        "What colour is grass?",
        "What is the opposite of hot?",
        "What is 3 plus 4?",
        "Name the seasons.",
        "What should I see in Chicago?",
        "What is the capital of France?",
    ):
        print(f"  {question} -> {answer(model, tokenizer, question)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "rehearsal_model")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=0.0, help="train this long instead")
    options = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory(dir=options.out.resolve().parent) as name:
        folder = Path(name)
        tokenizer = make_tokenizer(folder)
        model = make_model(tokenizer)
        count = sum(p.numel() for p in model.parameters())
        print(f"{count:,} parameters, {len(tokenizer)} tokens")
        train(model, tokenizer, options.steps, options.seconds)
        model.to(torch.bfloat16).save_pretrained(str(folder))
        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        report(saved, tokenizer)
        options.out.mkdir(exist_ok=True)
        for old in options.out.iterdir():
            old.unlink()
        for new in sorted(folder.iterdir()):
            shutil.copyfile(new, options.out / new.name)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
