#!/usr/bin/env bash
# Run the default tests: what starts no fleet in $PROCESSES processes, then fleets one at a time.
# Arguments go to pytest. Fails when a test does, and when the arguments choose no test at all.
set -uo pipefail
cd "$(dirname "$0")/.."

export OMP_NUM_THREADS=1
default="not slow and not gpu and not docker"
nothing_chosen=5 # pytest's exit status
chosen=0

run() {
  "${VENV:-.venv}/bin/python" -m pytest -q "$@"
  local status=$?
  [ "$status" = "$nothing_chosen" ] && return 0
  chosen=1
  return "$status"
}

run -n "${PROCESSES:-2}" --dist loadfile -m "$default and not e2e" "$@" || exit $?
run -m "$default and e2e" "$@" || exit $?
[ "$chosen" = 1 ] || { echo "test: no test was chosen by: $*" >&2; exit "$nothing_chosen"; }
