#!/usr/bin/env bash
# What this package does on a graphics card, in two calls of a few minutes each: see benchmarks/README.md.
#   benchmarks/gpu.sh check OUT [flags of gpu.py]     tests marked for CUDA, agreement with float64, seconds and memory beside the published way
#   benchmarks/gpu.sh cell OUT PRESET [flags]         a benchmark setting within --seconds; the same command goes on with it
# It needs the checkout, and the package's dependencies in `python3`; PYTHON names another interpreter.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/src:$here/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
[ $# -ge 2 ] || { sed -n 2,5p "$0"; exit 2; }
what=$1 out=$2
shift 2
mkdir -p "$out"
case $what in
check)
  code=0
  (cd "$here" && "$python" -m pytest -q -p no:cacheprovider tests/test_far_device.py -k "card_reports") 2>&1 | tail -n 3 | tee "$out/tests.log" || code=1
  "$python" "$here/benchmarks/gpu.py" --json "$out/gpu.json" "$@" 2>&1 | tee "$out/gpu.log" || code=1
  exit $code
  ;;
cell)
  "$python" "$here/benchmarks/cells.py" "$@" --out "$out/run" 2>&1 | tee -a "$out/cell.log"
  ;;
*) sed -n 2,5p "$0"; exit 2 ;;
esac
