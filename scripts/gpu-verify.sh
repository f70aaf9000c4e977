#!/usr/bin/env bash
# Verifies the CUDA kernels on a machine that has an NVIDIA driver and perhaps nothing else.
#
#   scripts/gpu-verify.sh build          where Rust is: the programs, stripped and packed, into target/gpu-verify/
#   scripts/gpu-verify.sh run [OUT.md]   where the GPU is: tests, checks and benchmarks, into one report of Markdown
#
# `run` needs this script and target/gpu-verify/ (which has a copy of the script, so the folder alone will do), bash and
# coreutils. It uses compute-sanitizer, and python3 with PyTorch, where they are. It runs for less than 8 minutes, goes
# on after a failure, and ends with a status other than 0 if anything failed or was cut.
#
#   GPU_VERIFY_DEVICE=softcuda   the same on the software device, with small samples and sizes: to try this script (CI)
#   GPU_VERIFY_SECONDS=470       time for everything; a part whose time is over is cut, and the report says so
#   GPU_VERIFY_PROFILE=dev       `build` takes cargo's dev profile instead of release
#   GPU_VERIFY_PYTHON=python3    the python that may have PyTorch
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
device=${GPU_VERIFY_DEVICE:-cuda}
tests=(cuda cuda_tf32 parity gradients exact determinism errors recorded training)
most=$((48 << 20)) # of the folder, in bytes: a checkout goes with it, and 64 MiB is a usual limit

die() {
    echo "gpu-verify: $*" >&2
    exit 1
}

build() {
    local folder=$root/target/gpu-verify profile=(--release) out=release name file
    cd "$root" || exit 1
    case ${GPU_VERIFY_PROFILE:-release} in
        release) ;;
        dev) profile=() out=debug ;;
        *) die "GPU_VERIFY_PROFILE=$GPU_VERIFY_PROFILE: release or dev" ;;
    esac
    export CARGO_TERM_COLOR=never
    cargo build --locked "${profile[@]}" -p tilegrad-cifar -p tilegrad-softcuda || die "the build failed"
    cargo build --locked "${profile[@]}" -p tilegrad-kernels --example cuda_bench || die "the build failed"
    # cargo names each test's program: "Executable tests/parity.rs (target/release/deps/parity-<hash>)".
    local list
    list=$(cargo test --locked "${profile[@]}" --no-run "${tests[@]/#/--test=}" 2>&1) || die "the build failed:
$list"
    rm -rf "$folder" && mkdir -p "$folder" || die "cannot make $folder"
    for name in "${tests[@]}" cifar cuda_bench libtilegrad_softcuda.so; do
        case $name in
            cifar | *.so) file=target/$out/$name ;;
            cuda_bench) file=target/$out/examples/$name ;;
            *) file=$(sed -n "s|.*Executable tests/$name.rs (\(.*\))|\1|p" <<<"$list") ;;
        esac
        cp "$file" "$folder/$name" && strip --strip-unneeded "$folder/$name" && gzip "$folder/$name" ||
            die "cannot pack $name from '$file'"
    done
    cp "$root/scripts/gpu-verify.sh" "$root/benches/peers/cuda_torch.py" "$folder"
    {
        git rev-parse HEAD
        [ -z "$(git status --porcelain --untracked-files=no)" ] || echo "with uncommitted changes"
    } | paste -sd' ' >"$folder/commit"
    local bytes
    bytes=$(cat "$folder"/* | wc -c)
    printf '%s: %d files, %.1f MiB, of %s\n' "$folder" "$(ls "$folder" | wc -l)" \
        "$(awk "BEGIN { print $bytes / 1048576 }")" "$(cat "$folder/commit")"
    [ "$bytes" -le $most ] || die "that is more than $most bytes"
}

# --- run -------------------------------------------------------------------------------------------------------------

# Text of a log in the report, shortened.
quote() {
    printf '\n```text\n'
    tail -n "${2:-40}" "$1" | cut -c1-400
    printf '```\n'
}

# part NAME SECONDS COMMAND..: runs it for at most its share of the time that is left, and notes the outcome as a row.
# `note` is what the row says of a success.
failed=0
part() {
    local name=$1 share=$2 log start left status seconds state note=""
    shift 2
    log=$work/${name//[^A-Za-z0-9_]/-}.log
    start=$SECONDS left=$((budget - SECONDS))
    [ "$share" -lt "$left" ] || share=$left
    if [ "$share" -lt 2 ]; then
        failed=1
        echo "| $name | **CUT** | 0 | no time was left for it |" >>"$work/rows"
        echo "gpu-verify: $name: no time left" >&2
        return 1
    fi
    timeout -k 5 "$share" "$@" >"$log" 2>&1 </dev/null
    status=$? seconds=$((SECONDS - start))
    case $status in
        0)
            state=ok
            # What libtest says of itself; a filter that matches nothing is no success.
            if grep -q '^test result:' "$log"; then
                note=$(awk '/^test result:/ { n += $4 } END { print n " tests" }' "$log")
                [ "$note" != "0 tests" ] || state="**FAILED**"
            fi
            ;;
        124 | 137) state="**CUT**" note="after its $share seconds" ;;
        *) state="**FAILED**" note="exit status $status" ;;
    esac
    if grep -q 'ERROR SUMMARY' "$log"; then note+="${note:+; }$(grep -o 'ERROR SUMMARY.*' "$log" | tail -1)"; fi
    # A virtual machine that does not let the tool near its device: not a finding of ours.
    if [ "$state" != ok ] && [[ "$*" == *compute-sanitizer* ]] && grep -q 'Device not supported' "$log"; then
        state=absent note="compute-sanitizer says: Device not supported"
    fi
    echo "| $name | $state | $seconds | $note |" >>"$work/rows"
    echo "gpu-verify: $name: ${state//\*/} (${seconds}s) $note" >&2
    case $state in ok | absent) return 0 ;; esac
    failed=1
    {
        printf '\n### %s: %s\n' "$name" "${state//\*/}"
        quote "$log"
    } >>"$work/failures"
    return 1
}

absent() {
    echo "| $1 | absent | 0 | $2 |" >>"$work/rows"
    echo "gpu-verify: $1: absent: $2" >&2
}

# Milliseconds and TFLOP/s of each line of cuda_bench, and of PyTorch where it has the line too.
kernel_table() {
    echo "| what | shape | format | rung | ms | TFLOP/s | PyTorch ms | TFLOP/s | PyTorch's time over ours |"
    echo "|-|-|-|-|-:|-:|-:|-:|-:|"
    awk -F'\t' -v peers="$work/kernels-torch.tsv" '
        BEGIN { while ((getline line < peers) > 0) { split(line, f, "\t"); torch[f[1] f[2] f[3]] = f[7] } }
        NF == 6 {
            t = torch[$1 $2 $3]
            printf "| %s | %s | %s | %s | %.4f | %.2f |", $1, $2, $3, $4, $6, $5 / $6 / 1e9
            if (t > 0) printf " %.4f | %.2f | %.2f |\n", t, $5 / t / 1e9, t / $6
            else print " - | - | - |"
        }' "$work/kernels.tsv"
}

training_table() {
    echo "| model, batch $batch | format | ms a step | images/s | PyTorch ms | images/s | PyTorch's time over ours |"
    echo "|-|-|-:|-:|-:|-:|-:|"
    awk -F'\t' -v peers="$work/train-torch.tsv" -v batch="$batch" '
        BEGIN { while ((getline line < peers) > 0) { split(line, f, "\t"); torch[f[1] f[2]] = f[3] } }
        {
            t = torch[$1 $2]
            printf "| %s | %s | %.2f | %.0f |", $1, $2, $3, batch / $3 * 1e3
            if (t > 0) printf " %.2f | %.0f | %.2f |\n", t, batch / t * 1e3, t / $3
            else print " - | - | - |"
        }' "$work/train.tsv"
}

# Commands whose output is a file of its own. Functions, so exported for the shell that `part` starts.
bench_kernels() { "$bin/cuda_bench" "$device" >"$work/kernels.tsv"; }
bench_kernels_torch() { "${torch[@]}" kernels "$work/kernels.tsv" >"$work/kernels-torch.tsv"; }
bench_train_torch() { "${torch[@]}" train "$batch" $trained >"$work/train-torch.tsv"; }
bench_train() {
    local one model format line status=0
    for one in $trained; do
        model=${one%:*} format=${one#*:}
        line=$("$bin/cifar" bench --model "$model" --batch "$batch" --dtype "$format" --steps "$steps" \
            --device "$device" --json) || status=1
        sed -n "s/.*\"median_ms\":\([0-9.]*\).*/$model\t$format\t\1/p" <<<"$line" >>"$work/train.tsv"
    done
    return $status
}
in_shell() { printf '%s\n' "$(declare -f "$1")" "$(declare -p work bin device batch steps trained torch)" "$1"; }

run() {
    local report=${1:-} here=$root/scripts bundle=$root/target/gpu-verify name reason
    # A copy in the folder runs from there.
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    [ -f "$here/commit" ] && bundle=$here
    [ -f "$bundle/commit" ] || die "no $bundle/commit: run 'scripts/gpu-verify.sh build' where Rust is"
    report=${report:-$bundle/report.md}
    budget=${GPU_VERIFY_SECONDS:-470}
    work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT || die "no temporary folder"
    bin=$work/bin
    mkdir "$bin"
    for name in "$bundle"/*.gz; do
        gunzip -c "$name" >"$bin/$(basename "$name" .gz)" || die "cannot unpack $name"
    done
    chmod +x "$bin"/*
    : >"$work/rows" >"$work/failures"
    export TILEGRAD_REQUIRE=$device TILEGRAD_ONLY=$device RUST_BACKTRACE=0
    # The driver compiles each kernel once a machine, if it may keep them all.
    export CUDA_CACHE_PATH=$work/cache CUDA_CACHE_MAXSIZE=4294967296
    local found gpu
    found=$("$bin/cifar" devices 2>&1)
    gpu=$(awk -v d="$device" '$1 == d && $2 == "available"' <<<"$found" | sed 's/^[^ ]* *available *//')
    header >"$work/header"
    if [ -z "$gpu" ]; then
        reason=$(awk -v d="$device" '$1 == d' <<<"$found" | sed 's/^[^ ]* *absent *//')
        echo "gpu-verify: there is no device '$device' here: $reason" >&2
        {
            cat "$work/header"
            printf '\nNothing was run: there is no device `%s` here: %s.\n' "$device" "$reason"
        } >"$report"
        exit 1
    fi
    local torch=("${GPU_VERIFY_PYTHON:-python3}" "$bundle/cuda_torch.py") batch steps trained
    if [ "$device" = softcuda ]; then
        torch+=(--device cpu)
        parts_small
    else
        parts_whole
    fi
    {
        cat "$work/header"
        [ "$device" = cuda ] || printf '\nTo try the script: small samples, and times that say nothing.\n'
        printf '\n## Parts\n\n| part | result | seconds | |\n|-|-|-:|-|\n'
        cat "$work/rows"
        [ -s "$work/kernels.tsv" ] && printf '\n## Kernels\n\n' && kernel_table
        [ -s "$work/train.tsv" ] && printf '\n## Training\n\n' && training_table
        [ -s "$work/failures" ] && printf '\n## Failures\n' && cat "$work/failures"
        printf '\n%s parts, %s in %d seconds.\n' "$(wc -l <"$work/rows")" \
            "$([ $failed = 0 ] && echo "all well," || echo "**not all well**,")" "$SECONDS"
    } >"$report"
    echo "gpu-verify: $report ($SECONDS s)" >&2
    exit $failed
}

header() {
    local smi=""
    smi=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)
    printf '# tilegrad on %s\n\n' "${gpu:-no device}"
    printf '| | |\n|-|-|\n'
    printf '| device | %s |\n' "${gpu:-none}"
    printf '| nvidia-smi: name, driver, memory | %s |\n' "${smi:-absent}"
    printf '| processor | %s, %s cores |\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)" "$(nproc)"
    printf '| date | %s |\n' "$(date -u '+%Y-%m-%d %H:%M UTC')"
    printf '| commit | %s |\n' "$(cat "$bundle/commit")"
}

# The tests that each device has to pass. SAMPLE as in tests/cases/lib.rs.
parts_tests() {
    local sample=$1 some=""
    [ "$sample" = 1 ] || some=", every ${sample}th"
    part "every kernel loads" 100 "$bin/cuda" every_kernel_loads
    part "memory, late errors" 20 "$bin/cuda"
    export TILEGRAD_SAMPLE=$sample
    part "case table$some" 80 "$bin/parity"
    part "tf32$some" 15 "$bin/cuda_tf32"
    part "gradient checks$some" 30 "$bin/gradients"
    part "integers, bit for bit$some" 50 "$bin/exact"
    part "determinism$some" 50 "$bin/determinism"
    unset TILEGRAD_SAMPLE
}

parts_benchmarks() {
    part "kernels" 60 bash -c "$(in_shell bench_kernels)"
    part "training steps" 30 bash -c "$(in_shell bench_train)"
    local version
    if ! version=$(timeout 60 "${torch[@]}" version 2>&1); then
        absent "PyTorch" "$(tail -1 <<<"$version" | cut -c1-200)"
        return
    fi
    echo "| PyTorch | $version |" >>"$work/header"
    part "kernels of PyTorch" 45 bash -c "$(in_shell bench_kernels_torch)"
    part "training steps of PyTorch" 45 bash -c "$(in_shell bench_train_torch)"
}

parts_whole() {
    local tool tools=/usr/local/cuda/bin/compute-sanitizer
    batch=128 steps=50
    trained="simple-cnn:f32 simple-cnn:bf16 resnet20:f32 resnet20:bf16 resnet18:f32 resnet18:bf16"
    parts_tests 1
    part "refusals" 15 "$bin/errors"
    part "recorded steps" 20 "$bin/recorded"
    part "training" 20 "$bin/training" five_steps_through_cuda
    part "cifar train" 30 "$bin/cifar" train --model resnet20 --batch 8 --max-steps 5 --device "$device" --no-progress \
        --out "$work/train"
    parts_benchmarks
    command -v compute-sanitizer >/dev/null && tools=$(command -v compute-sanitizer)
    if ! [ -x "$tools" ]; then
        absent "compute-sanitizer" "not on this machine"
        return
    fi
    for tool in memcheck racecheck initcheck synccheck; do
        # One case in fifty; memory that is filled first would hide from initcheck what it looks for.
        part "$tool" 40 env TILEGRAD_SAMPLE=50 TILEGRAD_POISON=$([ $tool = initcheck ] && echo 0 || echo 1) \
            "$tools" --tool $tool --error-exitcode 86 "$bin/parity" --test-threads 1
    done
}

# softcuda in the place of the GPU. All of its checks are on in all parts; but only memory that nothing has filled shows
# that a kernel reads what none has written.
parts_small() {
    batch=4 steps=1
    trained="simple-cnn:f32"
    export TILEGRAD_SOFTCUDA=$bin/libtilegrad_softcuda.so
    parts_tests 25
    part "recorded steps" 30 "$bin/recorded"
    part "training" 30 "$bin/training" five_steps_through_cuda
    part "cifar train" 20 "$bin/cifar" train --model simple-cnn --batch 2 --max-steps 1 --device "$device" \
        --no-progress --out "$work/train"
    part "unwritten memory" 30 env TILEGRAD_SAMPLE=50 TILEGRAD_POISON=0 "$bin/parity"
    parts_benchmarks
}

case ${1:-} in
    build) build ;;
    run) run "${2:-}" ;;
    *)
        sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed '/^set /d; s/^# \{0,1\}//'
        exit 2
        ;;
esac
