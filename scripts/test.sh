#!/usr/bin/env bash
# Set up a virtual environment (in .venv, or in $VENV) and pass every check: format, lint, types, tests. Types are checked
# beside the tests, which run in as many processes as there are cores. Arguments are those of pytest.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[test]'
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
types=$(mktemp)
"$venv/bin/mypy" >"$types" 2>&1 &
mypy=$!
trap 'kill $mypy 2>/dev/null || true; rm -f "$types"' EXIT
status=0
"$venv/bin/python" -m pytest -n auto --maxprocesses 8 --dist worksteal "$@" || status=$?
wait $mypy || status=$?
cat "$types"
exit $status
