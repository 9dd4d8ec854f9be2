#!/bin/sh
# Set up a virtual environment: [LOCKED=1] tools/setup.sh FOLDER [EXTRA]
#
# torch is looked for as a CPU build where there is no NVIDIA driver: what pip is configured to find first,
# PyTorch's own CPU index next, and whatever pip gives if neither has one. An index that cannot be reached is
# given up after seconds and never fails the set-up.
set -eu
venv=$1
extra=${2:-}
python=${PYTHON:-python3}
torch=$(sed -n 's/^torch==/torch==/p' constraints.txt)

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "OlivePress needs Python 3.11 or newer; $python is $("$python" --version 2>&1)." >&2
    echo "Name another one with: make PYTHON=/path/to/python3.11 run" >&2
    exit 2
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
has_torch() { "$venv/bin/python" -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; }

say() { echo "set-up: $*" >&2; }

has_gpu() { [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null 2>&1; }

if ! has_torch; then
    if has_gpu; then
        say "an NVIDIA driver is here: torch with CUDA"
        pip install -q "$torch"
    else
        say "no NVIDIA driver: a CPU build of torch"
        # The "+cpu" label can only be a CPU build; without it pip would take the large CUDA one.
        pip install -q --retries 0 --timeout 15 "$torch+cpu" 2>/dev/null ||
            pip install -q --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null ||
            { say "no CPU build could be had: taking what pip gives"; pip install -q "$torch"; }
    fi
fi
say "olivepress and its packages${extra:+ [$extra]}"
if [ -n "${LOCKED:-}" ]; then
    say "LOCKED: the files of requirements.lock and no others"
    pip install -q --require-hashes --no-deps -r requirements.lock
    pip install -q --no-deps --no-build-isolation -e .
else
    pip install -q -c constraints.txt -e ".${extra:+[$extra]}"
fi
# The deprecated cover over nvidia-ml-py, which 0.1.0 asked for: torch warns people of it.
pip uninstall -q -y pynvml 2>/dev/null
# The first start is as quick as the others, also where Python is told to write no compiled modules.
"$venv/bin/python" -m compileall -q core tui || true
