#!/usr/bin/env bash
# Test with real vLLM on this CPU, in the virtual environment that scripts/test.sh has set up; vLLM gets one of its own.
set -euo pipefail
. "$(dirname "$0")/help.sh"
cd "$(dirname "$0")/.."
exec "${VENV:-.venv}/bin/python" -m pytest -m vllm "$@" tests/test_real_vllm.py
