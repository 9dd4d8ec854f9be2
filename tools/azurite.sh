#!/bin/sh
# Install Azurite (Microsoft's emulator of Blob Storage) from npm into .cache/azurite, for the tests in tests/azure.
# Does nothing when it is there; says why and ends with 0 when npm is not, so that a test set-up can always call it.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=${OLIVEPRESS_AZURITE:-$root/.cache/azurite}
version=3.35.0
if [ -f "$target/node_modules/azurite/dist/src/blob/main.js" ]; then
    exit 0
fi
if ! command -v npm >/dev/null 2>&1; then
    echo "npm is not installed: the tests that need Azurite will be skipped" >&2
    exit 0
fi
mkdir -p "$target"
if ! npm install "azurite@$version" --prefix "$target" --no-audit --no-fund --ignore-scripts --loglevel=error; then
    echo "npm could not install Azurite: the tests that need it will be skipped" >&2
fi
