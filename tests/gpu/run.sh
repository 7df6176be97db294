#!/usr/bin/env bash
# Checks and times a program built elsewhere on a machine with an NVIDIA GPU; builds nothing and needs no network.
#
#   tests/gpu/run.sh BINARY BENCHMARK [FOLDER]
#
# BINARY is `orandflow` built with `--features libtorch`, BENCHMARK the program of `cargo bench --features libtorch --bench networks
# --no-run`; docs/gpu.md says how to make both. PYTHON (default python3) has the torch that both were built for, and torchvision, timm
# and Pillow for the times of PyTorch. Results go to FOLDER (default gpu-results): doctor.txt, parity.md, demo.txt, times-PRECISION.md.
#
# The demo runs on the GPU once and then does nothing. A network that is further than 1e-3 from the CPU ends the script with code 1,
# after everything else has run.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ $# -lt 2 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
binary=$(realpath "$1") benchmark=$(realpath "$2")
folder=${3:-gpu-results}
python=${PYTHON:-python3}
device=${ORANDFLOW_BENCH_DEVICE:-libtorch:cuda:0}
mkdir -p "$folder"

packages=$("$python" -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parent.parent)')
libraries=$packages/torch/lib
for nvidia in "$packages"/nvidia/*/lib; do
    [ -d "$nvidia" ] && libraries=$libraries:$nvidia
done
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export ORANDFLOW_BENCH_DEVICE=$device ORANDFLOW_PEER_PYTHON=$python
failures=0

step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

step "devices"
"$binary" doctor --devices | tee "$folder/doctor.txt"

step "every network, $device against the CPU"
"$benchmark" parity | tee "$folder/parity.md" || failures=$((failures + 1))

step "the demo on $device"
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
{ time "$binary" run pipelines/demo.toml --device "$device" --cache "$cache"; } 2>&1 | tee "$folder/demo.txt"
"$binary" run pipelines/demo.toml --device "$device" --cache "$cache" --json >"$cache/second.json"
if grep -q '"status": *"\(ran\|failed\|skipped\)"' "$cache/second.json"; then
    echo "the second run of the demo did something"
    failures=$((failures + 1))
fi

for precision in ${PRECISIONS:-f32 tf32 bf16}; do
    step "beside PyTorch, $precision"
    ORANDFLOW_BENCH_SIZES=${SIZES:-gpu} ORANDFLOW_BENCH_PRECISION=$precision "$benchmark" | tee "$folder/times-$precision.md"
done

step "done, $failures failed"
[ "$failures" -eq 0 ]
