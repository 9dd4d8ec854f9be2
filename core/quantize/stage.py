"""The quantize stage: fewer bits for each weight, through an Olive pass.

What it makes is a Hugging Face folder in Olive's checkpoint format (``quant_method: "olive"``) with
the source's own tokenizer, chat template and generation settings. The output matrix (``lm_head``) is
rounded to 8 bits whatever the method: the model builder takes it as it is, so that PyTorch and ONNX
compute the same; left in float, the builder would round it to 4 bits by itself.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.algorithms import ALGORITHMS, is_calibrated
from core.data import load_examples, resolve_data_file
from core.errors import RequestError
from core.files import as_umask_says, content_stamp, explained, publish, require_disk
from core.folder import LabFolder
from core.formats import counted, human_bytes
from core.language import told
from core.model.auto import Settled
from core.model.faults import refuse
from core.model.folder import ModelFacts, model_facts
from core.model.sources import model_stamp, resolve_model
from core.model.text import TEMPLATE_FILE, TEMPLATE_FOLDER, TEXT_FILES, read_text
from core.model.tokenizer import ModelTokenizer
from core.stage_context import StageContext, versions

HEAD_BITS = 8


def fingerprint(lab: LabFolder, recipe: Settled) -> dict[str, Any]:
    """All that the quantized model depends on.

    Raises:
        RequestError: the model's folder or the data file is missing.
    """
    quantize = dataclasses.asdict(recipe.quantize)
    used: dict[str, Any] = {"algorithm": recipe.quantize.algorithm}
    if is_calibrated(recipe.quantize.algorithm):
        data = dataclasses.asdict(recipe.data)
        file = calibration_file(recipe, lab.root)
        used = {**quantize, "records": content_stamp(file), "data": data}
    elif recipe.quantize.algorithm != "none":
        used = {key: quantize[key] for key in ("algorithm", "bits", "group_size", "eight_bit_layers")}
    return {
        "model": model_stamp(recipe.model.source, lab.root),
        "quantize": used,
        "versions": versions("olivepress", "olive-ai", "torch", "transformers"),
    }


def output(lab: LabFolder, recipe: Settled) -> Path:
    """The quantized model's folder."""
    return lab.quantized_dir


def calibration_file(recipe: Settled, lab_root: Path) -> Path:
    """The records to calibrate on: ``quantize.calibration_file``, or the training records.

    Raises:
        RequestError: there is no such file.
    """
    if not recipe.quantize.calibration_file:
        return resolve_data_file(recipe, lab_root)
    path = Path(recipe.quantize.calibration_file).expanduser()
    path = path if path.is_absolute() else lab_root / path
    if not path.exists():
        raise RequestError(
            told("The calibration file does not exist."),
            told("quantize.calibration_file: {path}.", path=path),
            told("Put the file there, or leave the key empty to calibrate on the training records."),
            code="quantize.calibration-file",
        )
    return path


def run(context: StageContext) -> dict[str, Any]:
    """Fetch, quantize, verify and publish the model.

    Raises:
        RequestError: no such model, one with a fault (:func:`core.model.faults.faults`), or unusable
            calibration data.
        StageError: the pass failed, or its result did not pass verification.
        MachineError: not enough memory or disk, or the hub cannot be reached.
        Cancelled: asked to stop.
    """
    recipe, report = context.recipe, context.report
    settings = recipe.quantize
    source = resolve_model(
        recipe.model.source, context.lab.root, report, trust_remote_code=recipe.model.trust_remote_code
    )
    facts = refuse(source.path, recipe, report)
    report.progress(told("Loading the packages"), 0, None)
    _check_disk(context.work, facts, settings.bits, settings.algorithm)
    rows, held_out = chosen_rows(context, source.path, facts)
    started = time.monotonic()
    made, said = make(context, source.path, facts, rows)
    seconds = time.monotonic() - started
    from core.quantize.verify import verify

    quality = verify(context, source.path, made, rows, held_out)
    after = model_facts(made)
    result = {
        "algorithm": settings.algorithm,
        "bits": after.bits or 8 * facts.weight_bytes // max(facts.parameters, 1),
        "group_size": settings.group_size if after.bits else None,
        "parameters": facts.parameters,
        "bytes_before": facts.weight_bytes,
        "bytes_after": after.weight_bytes,
        "calibration_rows": len(rows) if is_calibrated(settings.algorithm) else 0,
        "calibration_tokens": sum(map(len, rows)) if is_calibrated(settings.algorithm) else 0,
        "perplexity_float": round(quality.perplexity_float, 4),
        "perplexity": round(quality.perplexity, 4),
        "kl_to_float": round(quality.kl, 6),
        "same_likeliest_token": round(quality.agreement, 4),
        "measured_tokens": quality.tokens,
        "seconds": round(seconds, 1),
        **said,
    }
    report.metric("perplexity", quality.perplexity)
    report.metric("kl_to_float", quality.kl)
    report.log(
        f"{human_bytes(facts.weight_bytes)} became {human_bytes(after.weight_bytes)}; perplexity on "
        f"{quality.rows} held-out rows {quality.perplexity_float:.2f} before, {quality.perplexity:.2f} after."
    )
    publish(made, context.lab.quantized_dir, {**context.manifest, "source": source.name, "result": result})
    report.artifact(context.lab.quantized_dir, "quantized model")
    return result


def make(
    context: StageContext, path: Path, facts: ModelFacts, rows: Sequence[Sequence[int]]
) -> tuple[Path, dict[str, Any]]:
    """The quantized model as a whole folder in ``context.work``, not yet tried; and what the pass told."""
    said: dict[str, Any] = {}
    if context.recipe.quantize.algorithm == "none":
        made = _copy(path, facts, context.work / "output")
    else:
        made, said = run_pass(context, path, rows)
    with explained(made):
        keep_files(path, made)
        if not (made / "tokenizer.json").is_file():
            # The later steps and the chat read this form, and transformers has made it from the older ones.
            trust = context.recipe.model.trust_remote_code
            ModelTokenizer.read(path, trust_remote_code=trust).tokenizer.save(str(made / "tokenizer.json"))
    return made, said


def _check_disk(work: Path, facts: ModelFacts, bits: int, algorithm: str) -> None:
    """Refuse before the work what would end with a full disk: the result lies there twice for a moment."""
    share = 1.0 if algorithm == "none" else 2 * (bits + 1) / 16
    needed = int(facts.weight_bytes * share) + (64 << 20)
    require_disk(work.parent, needed)


def chosen_rows(
    context: StageContext, path: Path, facts: ModelFacts
) -> tuple[list[list[int]], list[list[int]]]:
    """Token rows to calibrate on, and others to measure with."""
    from core.quantize.calibration import FEW_ROWS, choose, text_rows, token_rows

    recipe, root = context.recipe, context.lab.root
    settings = recipe.quantize
    text = read_text(path)
    tokenizer = ModelTokenizer.read(path, text.ends, recipe.model.trust_remote_code)
    split = load_examples(recipe, root, text=text)
    longest = min(settings.max_calibration_len, facts.max_positions or settings.max_calibration_len)
    held_out = token_rows(split.eval or split.train[:32], tokenizer, longest)
    file = calibration_file(recipe, root)
    if file.suffix.lower() in (".txt", ".md"):
        rows = text_rows(file, tokenizer, settings.calibration_samples, longest, settings.seed)
    else:
        train = split.train
        if settings.calibration_file:
            data = dataclasses.replace(recipe.data, file=str(file), eval_fraction=0.0)
            other = dataclasses.replace(recipe, data=data)
            train = load_examples(other, root, text=text).train
        rows = token_rows(choose(train, settings.calibration_samples, settings.seed), tokenizer, longest)
    if not rows:
        raise RequestError(
            told("The calibration file has no text."),
            str(file),
            told("Give a file with records or text."),
            code="quantize.calibration-file",
        )
    tokens = sum(map(len, rows))
    if is_calibrated(settings.algorithm) and (len(rows) < FEW_ROWS or tokens < facts.hidden_size):
        context.report.log(
            f"Only {counted(len(rows), 'calibration row')} with {counted(tokens, 'token')}: "
            "too few to know which channels matter. "
            f"Give more records, or raise quantize.calibration_samples; {max(FEW_ROWS, 64)} rows do well.",
            "warning",
        )
    return rows, held_out


def eight_bit_layers(recipe: Settled, path: Path) -> list[str]:
    """The model's layers of the kinds that ``quantize.eight_bit_layers`` names.

    Raises:
        RequestError: the model has no layer of such a kind.
    """
    from core.olive.checkpoint import linear_modules

    kinds = [kind.strip() for kind in recipe.quantize.eight_bit_layers.split(",") if kind.strip()]
    if not kinds:
        return []
    there = linear_modules(path)
    known = {name.rsplit(".", 1)[-1] for name in there}
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise RequestError(
            told("The model has no layers called {unknown}.", unknown=unknown[0]),
            told(
                "quantize.eight_bit_layers = {eight_bit_layers}; {path} has {names}.",
                eight_bit_layers=repr(recipe.quantize.eight_bit_layers),
                path=path,
                names=", ".join(sorted(known)),
            ),
            told("Name some of those, or leave it empty."),
            code="quantize.layers",
        )
    return [name for name in there if name.rsplit(".", 1)[-1] in kinds]


def passes(recipe: Settled, rows_file: Path, path: Path) -> dict[str, Any]:
    """The workflow's passes for the recipe's algorithm and the model in ``path``, calibrating on ``rows_file``.

    Raises:
        RequestError: the algorithm is unknown, or the model has no such layers.
    """
    settings = recipe.quantize
    algorithm = ALGORITHMS.get(settings.algorithm)
    if algorithm is None or not algorithm.olive:
        raise RequestError(
            told("There is no algorithm {algorithm}.", algorithm=repr(settings.algorithm)),
            "quantize.algorithm",
            code="recipe.value",
        )
    options: dict[str, Any] = {
        **algorithm.olive,
        "bits": settings.bits,
        "group_size": settings.group_size,
        "sym": False,
        "lm_head": True,
        "overrides": {
            "lm_head": {"bits": HEAD_BITS},
            **{name: {"bits": 8} for name in eight_bit_layers(recipe, path)},
        },
    }
    if algorithm.calibrated:
        from core.quantize.calibration import data_config

        options["data_config"] = data_config(rows_file)
    if algorithm.seeded:
        options["seed"] = settings.seed
    return {"quantize": options}


def run_pass(context: StageContext, path: Path, rows: Sequence[Sequence[int]]) -> tuple[Path, dict[str, Any]]:
    """Quantize the model in ``path`` with the recipe's algorithm; the folder made, and what the pass told."""
    from core.olive.run import run_workflow, workflow
    from core.quantize.calibration import write_rows

    recipe = context.recipe
    context.work.mkdir(parents=True, exist_ok=True)
    file = context.work / "calibration.json"
    write_rows(file, rows)
    made = run_workflow(
        workflow(path, passes(recipe, file, path), trust_remote_code=recipe.model.trust_remote_code),
        work=context.work,
        report=context.report,
        failure=told("Quantizing with {algorithm} failed.", algorithm=recipe.quantize.algorithm),
        hint=told("All that was said is in the job's log."),
    )
    said = made.attributes.get("olivepress_quantize")
    return made.model_path, said if isinstance(said, dict) else {}


def _copy(source: Path, facts: ModelFacts, target: Path) -> Path:
    """The model as it is: weights that are read, configuration, code of its own; no second copies of the weights."""
    with explained(target):
        target.mkdir(parents=True)
        for file in sorted(source.iterdir()):
            weights = file.name in facts.shards or file.name.endswith(".index.json")
            if file.is_file() and (weights or file.suffix in (".json", ".py", ".model", ".txt", ".jinja")):
                shutil.copyfile(file, target / file.name)
    return target


def keep_files(source: Path, made: Path) -> None:
    """Put the source's own tokenizer, templates and generation settings beside the quantized weights."""
    as_umask_says(made)
    for name in TEXT_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, made / name)
        elif name in (TEMPLATE_FILE, "chat_template.json"):
            # Olive splits off a template that stands in tokenizer_config.json, which comes back whole.
            (made / name).unlink(missing_ok=True)
    shutil.rmtree(made / TEMPLATE_FOLDER, ignore_errors=True)
    if (source / TEMPLATE_FOLDER).is_dir():
        shutil.copytree(source / TEMPLATE_FOLDER, made / TEMPLATE_FOLDER, copy_function=shutil.copyfile)
