#!/usr/bin/env bash
# Test that the lowest versions that pyproject.toml allows do: of what the simulator and the router need, installed into a
# virtual environment of their own, they simulate, compiled and uncompiled, write Parquet and route.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python="$folder/venv/bin/python"
lowest=$("${VENV:-.venv}/bin/python" - <<'PY'
import re
from pathlib import Path

text = Path("pyproject.toml").read_text(encoding="utf-8")
lists = (re.search(rf"^{name} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL) for name in ("dependencies", "serve"))
print(*(f"{name}=={version}" for found in lists for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', found[1])))
PY
)
echo "Lowest versions: $lowest"
# shellcheck disable=SC2086
"$python" -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: $lowest
"$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --editable .

export VIDUR_CACHE_DIR="$folder/cache"
common=(--synthetic_request_generator_config_num_requests 60 --metrics_config_output_dir "$folder/out")
"$python" -W error -m vidur.main "${common[@]}" | grep '60 of 60 finished'
NUMBA_DISABLE_JIT=1 "$python" -W error -m vidur.main --config docs/examples/azure_conv.yaml "${common[@]}" |
  grep '60 of 60 finished'
"$python" -W error -c "import pandas; pandas.DataFrame({'name': ['a'], 'value': [1.5]}).to_parquet('$folder/rows.parquet')"
status=0
timeout --preserve-status --signal TERM 4 "$python" -W error -m rl.vllm.router --replica http://127.0.0.1:1 --port 0 \
  --scheduler ppo >"$folder/router" 2>&1 || status=$?
cat "$folder/router"
grep -q 'listening\|http://127.0.0.1' "$folder/router"
[ "$status" -eq 0 ] || { echo "test_lowest.sh: the router ended with $status" >&2; exit 1; }
echo "The lowest versions do."
