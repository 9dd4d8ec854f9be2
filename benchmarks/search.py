"""Does a search under a limit of size find what making every candidate finds, and in what part of the time?

    python -m benchmarks.search FOLDER --model MODEL --max-size 108MB exhaustive --only 64    # some, in any order
    python -m benchmarks.search FOLDER --model MODEL --max-size 108MB search
    python -m benchmarks.search FOLDER --model MODEL --max-size 108MB report

Both work in this process, with the same calibration rows. Each candidate made by itself costs what ``run quantize``
does but for the start of a process. Times are this process's processor time, so that other work on the machine does not
count. The figures stand in FOLDER after every candidate, and what stands there is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.events import JobReporter
from core.files import read_json, write_json
from core.folder import LabFolder
from core.model.auto import Facts, resolve
from core.model.folder import model_facts
from core.quantize.stage import chosen_rows, make
from core.recipe import Recipe
from core.search.quantize import QuantizeSearch
from core.search.space import (
    Candidate,
    SearchLimits,
    algorithms_to_try,
    fitting_groups,
    forms_of,
    read_size,
    size_of,
)
from core.stage_context import StageContext


def context_of(folder: Path, model: Path, rows: int, longest: int, work: str) -> StageContext:
    lab = LabFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "model.source": str(model),
        "quantize.calibration_samples": rows,
        "quantize.max_calibration_len": longest,
        "data.eval_fraction": 0.03,  # a dozen records: measuring on more would hide what rounding takes
    }
    recipe = resolve(Recipe().with_values(values), Facts.of(model), None).recipe
    place = lab.models_dir / f".{work}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return StageContext(lab, recipe, JobReporter(place, work), place, {}, {})


def every(context: StageContext, options: argparse.Namespace) -> list[Candidate]:
    """The candidates of the search that are within the limit."""
    facts = model_facts(Path(context.recipe.model.source))
    forms = forms_of(fitting_groups(facts, options.groups), [], eight=False)
    return [
        Candidate(name, form)
        for form in forms
        for name in algorithms_to_try(options.algorithms)
        if size_of(facts, form) <= options.max_size
    ]


def exhaustive(options: argparse.Namespace) -> None:
    from core.quantize.verify import verify

    model, folder = Path(options.model), Path(options.folder)
    context = context_of(
        folder, model, options.rows, options.longest, f"each-{'-'.join(map(str, options.only))}"
    )
    facts = model_facts(model)
    rows, held_out = chosen_rows(context, model, facts)
    for candidate in every(context, options):
        file = folder / f"each-{candidate.algorithm}-{candidate.form.name}.json"
        if file.exists() or (options.only and candidate.form.group_size not in options.only):
            continue
        began, cpu = time.monotonic(), time.process_time()
        work = context.work / "one"
        one = replace(context, recipe=candidate.put_into(context.recipe), work=work)
        made, _ = make(one, model, facts, rows)
        quality = verify(one, model, made, rows, held_out)
        found = {
            "title": candidate.title,
            "bytes": model_facts(made).weight_bytes,
            "kl": quality.kl,
            "cpu_s": round(time.process_time() - cpu, 1),
            "wall_s": round(time.monotonic() - began, 1),
        }
        shutil.rmtree(work)
        write_json(file, found)
        print(json.dumps(found), flush=True)


def search(options: argparse.Namespace) -> None:
    context = context_of(
        Path(options.folder), Path(options.model), options.rows, options.longest, "searching"
    )
    began, cpu = time.monotonic(), time.process_time()
    board = QuantizeSearch(
        context,
        SearchLimits(size=options.max_size),
        algorithms=options.algorithms,
        groups=options.groups,
        mixed=False,
        finalists=options.finalists,
    ).run()
    best = next((each for each in board.tries if each.number == board.best), None)
    found = {
        "best": best and best.title,
        "kl": best and best.loss,
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.monotonic() - began, 1),
        "tries": [[each.title, each.state, each.loss] for each in board.tries],
    }
    write_json(Path(options.folder) / "search.json", found)
    print(json.dumps(found, indent=1))


def report(options: argparse.Namespace) -> None:
    folder = Path(options.folder)
    each: list[dict[str, Any]] = [read_json(path) for path in sorted(folder.glob("each-*.json"))]
    each.sort(key=lambda one: one["kl"])
    for one in each:
        print(f"{one['title']:44} {one['bytes'] / 1e6:6.1f} MB  KL {one['kl']:.4f}  {one['cpu_s']:5.0f} s")
    whole = sum(one["cpu_s"] for one in each)
    found = read_json(folder / "search.json")
    print(f"Every one of {len(each)}: {whole:.0f} s; the best: {each[0]['title']}.")
    print(
        f"Search: {found['cpu_s']:.0f} s, {found['cpu_s'] / whole:.0%} of that; the best: {found['best']} "
        f"(KL {found['kl']:.4f})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("what", choices=("exhaustive", "search", "report"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-size", type=read_size, default=1 << 40)
    parser.add_argument("--algorithms", nargs="*", default=[])
    parser.add_argument("--groups", nargs="*", type=int, default=[])
    parser.add_argument("--only", nargs="*", type=int, default=[], help="of these groups alone")
    parser.add_argument("--finalists", type=int, default=1)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--longest", type=int, default=96)
    options = parser.parse_args()
    {"exhaustive": exhaustive, "search": search, "report": report}[options.what](options)


if __name__ == "__main__":
    main()
