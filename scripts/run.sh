#!/usr/bin/env bash
# Set up a virtual environment (in .venv, or in $VENV) and run the simulator with the flags given.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import vidur.simulator' 2>/dev/null ||
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable .
exec "$venv/bin/python" -m vidur.main "$@"
