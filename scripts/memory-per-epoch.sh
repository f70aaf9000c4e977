#!/usr/bin/env bash
# Resident memory of a training run after each epoch: it must not grow from the second on.
#
#     scripts/memory-per-epoch.sh [ARGUMENTS OF cifar train]      (default: those of the preset quick, 8 epochs)
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- --preset quick --epochs 8
out=$(mktemp -d)
trap 'kill $pid 2>/dev/null || true; rm -rf "$out"' EXIT
cargo build --release --quiet
target/release/cifar train "$@" --out "$out/run" --no-progress >"$out/log" 2>&1 &
pid=$!
echo "epoch  resident MB  peak MB"
epochs=0
while kill -0 $pid 2>/dev/null; do
    now=$(grep -c '^[0-9]' "$out/run/metrics.csv" 2>/dev/null || true)
    if [ "${now:-0}" -gt "$epochs" ] && [ -r /proc/$pid/status ]; then
        epochs=$now
        awk -v epoch="$epochs" '/VmRSS/ { now = $2 } /VmHWM/ { peak = $2 }
            END { if (now) printf "%5d %12.1f %8.1f\n", epoch, now / 1e3, peak / 1e3 }' /proc/$pid/status
    fi
    sleep 0.2
done
wait $pid || { cat "$out/log"; exit 1; }
