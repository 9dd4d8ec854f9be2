#!/usr/bin/env bash
# Tag what was built and tested: release.sh PYTHON. Nothing is pushed.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$("$1" -c 'import core.version; print(core.version.__version__)')
if [ -n "$(git status --porcelain)" ]; then
    echo "There are changes that are not committed: the tag would not be what was tested." >&2
    exit 1
fi
if ! grep -qF "## [$version]" CHANGELOG.md; then
    echo "CHANGELOG.md has no part for $version: give what is unreleased its number." >&2
    exit 1
fi
if git rev-parse -q --verify "refs/tags/v$version" >/dev/null; then
    echo "v$version is tagged already: raise core/version.py." >&2
    exit 1
fi
git tag -a "v$version" -m "OlivePress $version"
echo "Tagged v$version; the wheel is $(ls dist/*.whl). Publish with: git push origin v$version"
