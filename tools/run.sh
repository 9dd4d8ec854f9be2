#!/bin/sh
# `make run`: the wizard on a rehearsal lab; with no terminal, the whole lab headless and one question answered twice.
set -eu
olivepress=${BIN:-.venv/bin}/olivepress
lab=${LAB:-rehearsal-lab}
if [ -t 0 ] && [ -t 1 ]; then
    exec "$olivepress" "$lab"
fi
[ -e "$lab/lab.toml" ] || "$olivepress" new "$lab" --model rehearsal
"$olivepress" run "$lab"
"$olivepress" chat "$lab" --compare --prompt "What should I see in Chicago?"
