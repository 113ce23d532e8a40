#!/usr/bin/env bash
# Set up a virtual environment (in .venv, or in $VENV) and run the simulator with the flags given. uv, where it is
# installed, sets it up in a fraction of the time.
set -euo pipefail
if [ "${1:-}" = --help ] && ! [ -x "$(dirname "$0")/../${VENV:-.venv}/bin/python" ]; then
  . "$(dirname "$0")/help.sh" # all flags are listed once the environment is there
fi
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
uv=$(command -v uv || true)
if [ ! -x "$venv/bin/python" ]; then
  if [ -n "$uv" ]; then uv venv --quiet --seed "$venv"; else python3 -m venv "$venv"; fi
fi
if ! "$venv/bin/python" -c 'import vidur.simulator' 2>/dev/null; then
  echo "Installing into $venv: once ..." >&2
  # Python compiles the modules that are imported, a tenth of those that pip would compile.
  if [ -n "$uv" ]; then
    uv pip install --quiet --python "$venv/bin/python" --editable .
  else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --editable .
  fi
fi
exec "$venv/bin/python" -m vidur.main "$@"
