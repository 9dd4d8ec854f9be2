"""The lab's run as a batch script of Slurm. It works in the lab itself, which the cluster's machines must see."""

from __future__ import annotations

import re
import shlex
import sys

from core.export.write import Exported, ExportRequest, free_place
from core.files import write_atomic
from core.language import told
from core.stages import default_stages
from core.text import clean

_SCRIPT = """\
#!/bin/bash
# {what}
#SBATCH --job-name={name}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time=24:00:00
#SBATCH --output={name}-%j.out
#SBATCH --open-mode=append
# A job that is taken back or ends is told three minutes before: the training keeps a checkpoint, and goes on
# from it when the job is put into the queue again.
#SBATCH --requeue
#SBATCH --signal=B:INT@180
# What differs from cluster to cluster, such as --partition and --account, is best given to sbatch.

set -euo pipefail
lab={lab}
test -f "$lab/lab.toml" || {{ echo "There is no lab at $lab on this machine." >&2; exit 2; }}
exec {python} -P -m core.cli run "$lab" {stages}
"""


def run(wanted: ExportRequest) -> Exported:
    """Write the script."""
    recipe, root = wanted.lab.recipe, wanted.lab.root
    target = free_place(wanted)
    gpus = recipe.finetune.gpus
    count = gpus if isinstance(gpus, int) else 1
    write_atomic(
        target,
        _SCRIPT.format(
            what=f"A lab of OlivePress: {clean(root.name, keep_newlines=False)}",
            name=task_name(root.name),
            gpus=count,
            cpus=8 * count,
            lab=shlex.quote(str(root)),
            python=shlex.quote(sys.executable),
            stages=" ".join(default_stages()),
        ),
    )
    notes: list[str] = [told("The lab and this Python must lie where the cluster's machines see them.")]
    if not isinstance(gpus, int):
        notes.append(
            told('finetune.gpus is "auto": one GPU is asked for; sbatch --gpus-per-node=N asks for more.')
        )
    return Exported(
        "slurm",
        str(target),
        target.stat().st_size,
        notes=tuple(notes),
        next=wanted.form.next.format(out=shlex.quote(str(target)), name=target.name),
    )


def task_name(text: str) -> str:
    """A name that every scheduler takes."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
    return f"olivepress-{plain}".rstrip("-")
