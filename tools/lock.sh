#!/bin/sh
# Pin all dependencies with hashes, for all supported Python versions. `make lock` runs this script; it needs uv.
# The development lock comes first and constrains the others, so that each package has one version.
set -eu
cd "$(dirname "$0")/.."
lock() { # NAME, then the inputs of `uv pip compile`
    name=$1; shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
        --no-emit-find-links --custom-compile-command 'make lock' --output-file "locks/$name.txt" ${UPGRADE:+--upgrade} "$@"
}
lock development pyproject.toml --extra processor --extra operator --extra dev \
    --group test --group servers --group check --group bench --group build
lock test pyproject.toml --extra processor --extra operator --extra dev --group test --group build \
    --constraint locks/development.txt
lock dev pyproject.toml --extra dev --group build --constraint locks/development.txt
for image in processor operator; do
    lock "$image" pyproject.toml --extra "$image" --constraint locks/development.txt
done
lock build --group build --constraint locks/development.txt
lock release --group release --constraint locks/development.txt
