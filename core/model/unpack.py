"""Makes a Hugging Face folder of a GGUF file, once, in the user's cache.

The weights come through transformers' own reader as bfloat16; the tokenizer is set right where that reader
goes by less than the file tells. There are two folders: one with the whole model, and a small one
with what concerns text (tokenizer, template, configuration), for those who only look at records. Each stands
there whole or not at all, and two that want the same one wait for one another.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import MachineError, RequestError, StageError
from core.events import Reporter
from core.files import (
    MANIFEST,
    as_umask_says,
    explained,
    publish,
    read_if_whole,
    read_json,
    require_disk,
    write_atomic,
    write_json,
)
from core.formats import human_bytes
from core.model.gguf import (
    DIGIT_BY_DIGIT,
    LLAMA3_PRE,
    ORIGINAL,
    Header,
    check_gguf,
    config_of,
    end_tokens,
)
from core.process import Child, Request, serve
from core.tqdm_progress import reporting
from core.user_dirs import cache_dir

_FORM = 1
"""Raised when these folders are made in another way, so that older ones are not used."""

_WAIT_S = 0.2
_IN_USE_S = 24 * 3600
"""A folder that was taken up within that time may be in use still."""

_PROBE = "In 1863 it's  OPEN:\n\n  12,345 km — naïve café!?\t{x}"
"""A text that tokenizers cut in different ways."""

_PHASES = {
    r"Converting and de-quantizing": "Unpacking the GGUF file",
    r"Loading weights": "",
    r"Writing model shards": "Writing the unpacked model",
}


def float_folder(file: Path, report: Reporter) -> Path:
    """The whole model of a GGUF file as a float Hugging Face folder; made if it is not there yet.

    Raises:
        RequestError: the file is not one that can be read.
        MachineError: there is not enough disk or memory.
        StageError: what came out is not the whole model.
        Cancelled: asked to stop.
    """
    header = check_gguf(file)
    target = _place(header)
    if target.is_dir():
        os.utime(target)  # it is in use: see _remove_stale
        return target
    with _alone(target, report):
        if not target.is_dir():
            _enough(header, target.parent)
            with _beside(target) as made:
                if (text := _text_place(header)).is_dir():
                    shutil.copytree(text, made, dirs_exist_ok=True)
                else:
                    _text_files(header, made, report)
                _weights(header, made, report)
                publish(made, target, {"source": str(file), "stamp": header.stamp})
                report.log(f"{file.name} was unpacked into {target}.")
            _remove_stale(target, report)
    return target


def _remove_stale(made: Path, report: Reporter) -> None:
    """Remove what was unpacked beside ``made`` and cannot be used any more, if nobody has used it for a day.

    That is a folder made of the same file as it was before, or by older packages, and one whose file is gone.
    """
    source = str(read_json(made / MANIFEST)["source"])
    kept = {made.name, f"{made.name}.text"}
    for folder in [each for each in made.parent.iterdir() if each.is_dir() and not each.name.startswith(".")]:
        was = (read_if_whole(folder / MANIFEST) or {}).get("source")
        if (
            not isinstance(was, str)
            or folder.name in kept
            or time.time() - folder.stat().st_mtime < _IN_USE_S
        ):
            continue
        # A file on a disk that is not mounted may come back; one that was removed from its folder does not.
        gone = not Path(was).exists() and Path(was).parent.is_dir()
        if was == source or gone:
            report.log(
                f"{folder} was unpacked from {was}, which is {'gone' if gone else 'another now'}: removed."
            )
            shutil.rmtree(folder, ignore_errors=True)


def text_folder(file: Path, *, make: bool = True) -> Path | None:
    """Tokenizer, template and configuration of a GGUF file as a Hugging Face folder without weights.

    It is made in a process of its own, for torch would come into this one. That takes seconds, once; with
    ``make`` off the answer is None where there is none yet.

    Raises:
        RequestError: the file is not one that can be read.
        MachineError: the cache cannot be written.
        StageError: the process was killed.
    """
    header = check_gguf(file)
    whole, text = _place(header), _text_place(header)
    if whole.is_dir():
        return whole
    if not text.is_dir() and not make:
        return None
    if not text.is_dir():
        with Child("core.model.unpack", what="The reader of the GGUF file") as child:
            child.ask({"file": str(file)})
    return text


def is_unpacked(header: Header) -> bool:
    """Whether the whole model of a GGUF file lies in the cache already."""
    return _place(header).is_dir()


def _place(header: Header) -> Path:
    import hashlib
    from importlib.metadata import version

    made_by = " ".join(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "gguf"))
    key = hashlib.sha256(f"{header.stamp} {made_by} {_FORM}".encode()).hexdigest()[:12]
    stem = re.sub(r"[^\w.-]+", "-", header.path.stem)[:60]
    return cache_dir() / "gguf" / f"{stem}-{key}"


def _text_place(header: Header) -> Path:
    place = _place(header)
    return place.with_name(place.name + ".text")


@contextmanager
def _alone(target: Path, report: Reporter) -> Iterator[None]:
    """Hold what lets only one process make ``target``; whoever waits can be cancelled."""
    from filelock import FileLock, Timeout

    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        while True:
            report.check_cancelled()
            try:
                lock.acquire(timeout=_WAIT_S)
                break
            except Timeout:
                report.progress("Waiting for another process to unpack the file", 0, None)
        try:
            yield
        finally:
            lock.release()


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder to make ``target`` in; gone afterwards, and so are those that a killed process left."""
    for left in target.parent.glob(f".{target.name}.making-*"):
        shutil.rmtree(left, ignore_errors=True)  # nobody else is at it: the lock is ours
    made = target.with_name(f".{target.name}.making-{uuid.uuid4().hex[:8]}")
    with explained(target):
        made.mkdir(parents=True)
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def unpacking_memory(header: Header) -> int:
    """Bytes of RAM that unpacking takes.

    The weights, the largest tensor as float32 in three copies while it is unpacked, the tokenizer (3 KiB a token as
    measured) and the packages.
    """
    largest = max(tensor.numbers for tensor in header.tensors.values())
    tokens = 3072 * int(header.metadata["tokenizer.ggml.tokens"])
    return header.float_bytes + 12 * largest + tokens + (512 << 20)


def _enough(header: Header, place: Path) -> None:
    """Refuse before the work what would end with a full disk or without memory."""
    import psutil

    hint = "Free some space, or let XDG_CACHE_HOME name a folder on another disk."
    require_disk(place, header.float_bytes + (64 << 20), hint)
    wanted = unpacking_memory(header)
    available = psutil.virtual_memory().available
    if available < wanted:
        raise MachineError(
            "There is not enough memory to unpack the GGUF file.",
            f"{header.path} needs about {human_bytes(wanted)}, {human_bytes(available)} are free.",
            "Close what else uses the memory, or use a smaller model.",
            code="machine.memory",
        )


@contextmanager
def _by_itself(file: Path, near: Path) -> Iterator[tuple[str, str]]:
    """A folder with nothing but the file: transformers prefers a tokenizer or template that lies beside it."""
    place = near / "gguf"
    place.mkdir()
    try:
        (place / "model.gguf").symlink_to(file.resolve())
        yield str(place), "model.gguf"
    finally:
        shutil.rmtree(place)


def _text_files(header: Header, folder: Path, report: Reporter) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    report.progress("Reading the tokenizer", 0, None)
    report.check_cancelled()
    path = header.path
    try:
        with _by_itself(path, folder) as (place, name):
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for what does not fit
        raise RequestError(
            "The tokenizer of the GGUF file cannot be read.",
            f"{path}: {' '.join(str(error).split())[:300]}",
            ORIGINAL,
            code="model.gguf-tokenizer",
        ) from error
    _set_right(header, tokenizer)
    again = _saved(tokenizer, folder)
    if again.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
        # For some architectures transformers puts a class of its own in place (Qwen2: it composes accents too).
        # Then tokenizer.json must say the same, for those who read it without transformers.
        again = _saved(again, folder)
    ids = again(_PROBE)["input_ids"]
    if ids != tokenizer(_PROBE)["input_ids"] or (ids[0] == header.token_id("bos")) != header.starts_with_bos:
        raise RequestError(
            "The tokenizer of the GGUF file cannot be kept as it is.",
            f"{path}: transformers cuts text in another way than tokenizer.ggml.pre = "
            f"{header.metadata.get('tokenizer.ggml.pre')!r} says.",
            ORIGINAL,
            code="model.gguf-tokenizer",
        )
    templates = header.templates
    for name, template in templates.items():
        file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        write_atomic(folder / file, template)
    config = config_of(header)
    kind = config.pop("model_type")
    AutoConfig.for_model(kind, **config).save_pretrained(str(folder))
    GenerationConfig(
        bos_token_id=header.token_id("bos"),
        eos_token_id=end_tokens(header),
        pad_token_id=header.token_id("padding"),
    ).save_pretrained(str(folder))


def _saved(tokenizer: Any, folder: Path) -> Any:
    """Save a tokenizer, and what transformers makes of it again."""
    from core.model.load import load_tokenizer

    tokenizer.save_pretrained(str(folder))
    _tidy(folder / "tokenizer_config.json")
    return load_tokenizer(folder)


def _set_right(header: Header, tokenizer: Any) -> None:
    """What transformers' reader leaves out of the file's tokenizer."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    pre = header.metadata.get("tokenizer.ggml.pre")
    if header.metadata.get("tokenizer.ggml.model") == "gpt2":
        if pre in LLAMA3_PRE | {"tekken"}:
            backend.model.ignore_merges = True
        if pre in DIGIT_BY_DIGIT:
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
    if tokenizer.add_bos_token != header.starts_with_bos:
        tokenizer.add_bos_token = header.starts_with_bos
        tokenizer.update_post_processor()
    tokenizer.model_max_length = header.own("context_length")
    tokenizer.chat_template = header.templates.get("default")


def _tidy(file: Path) -> None:
    """Keep out of the tokenizer's configuration how it was loaded.

    The class of the architecture would put its own way of cutting text in the place of the file's.
    """
    from core.files import read_json

    config = read_json(file)
    for key in ("is_local", "local_files_only", "gguf_file", "name_or_path"):
        config.pop(key, None)
    config["tokenizer_class"] = "TokenizersBackend"
    write_json(file, config)


def _weights(header: Header, folder: Path, report: Reporter) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GgufConfig

    path = header.path
    with reporting(report, _PHASES):
        try:
            with _by_itself(path, folder) as (place, name):
                model, info = AutoModelForCausalLM.from_pretrained(
                    place,
                    gguf_file=name,
                    config=AutoConfig.from_pretrained(str(folder)),
                    dtype=torch.bfloat16,
                    quantization_config=GgufConfig(dequantize=True),
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (RuntimeError, ValueError, KeyError, NotImplementedError) as error:
            raise RequestError(
                "The weights of the GGUF file cannot be read.",
                f"{path}: {' '.join(str(error).split())[:300]}",
                ORIGINAL,
                code="model.gguf-shape",
            ) from error
        wrong = [*map(str, info.get("missing_keys") or ()), *map(str, info.get("mismatched_keys") or ())]
        numbers = sum(parameter.numel() for parameter in model.parameters())
        if wrong or numbers != header.parameters:
            raise StageError(
                "The GGUF file does not hold the model that it tells of.",
                f"{path} has {header.parameters} numbers, the model {numbers}"
                + (f"; not found or of another shape: {', '.join(wrong[:3])}." if wrong else "."),
                ORIGINAL,
                code="model.gguf-damaged",
            )
        with torch.no_grad():
            if not bool(torch.isfinite(model(torch.tensor([[0, 1, 2]])).logits).all()):
                raise RequestError(
                    "The model's answers are no numbers.",
                    f"{path}: NaN or Inf in its output.",
                    "Fetch it again.",
                    code="model.not-finite",
                )
        report.check_cancelled()
        model.config.quantization_config = None
        del model.config.quantization_config
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
        model.save_pretrained(str(folder))
    as_umask_says(folder)


def _answer(request: Request) -> None:
    """Make the text folder of the file that is asked for."""
    from core.telemetry import switch_off

    switch_off()
    header = check_gguf(Path(request.ask["file"]))
    target = _text_place(header)
    report = request.reporter()
    with _alone(target, report):
        if not target.is_dir():
            with _beside(target) as made:
                _text_files(header, made, report)
                publish(made, target, {"source": str(header.path), "stamp": header.stamp})


if __name__ == "__main__":
    serve(_answer)
