#!/usr/bin/env bash
# Fuzzes what reads input from outside:
#   run.sh                  each target for FUZZ_SECONDS (20); fails when one finds something
#   run.sh TARGET           this one only
#   run.sh TARGET INPUT     this one with this file, once
# What a run finds worth keeping is in target/fuzz/, and the next run begins with it. corpus/ is what
# people put there, each input with a name that says what it tries.
#
# The targets are cargo-fuzz's in every respect, and `cargo fuzz run --sanitizer none TARGET` looks
# into the libraries' branches as well. But it compiles all of them anew, for a quarter of an hour of
# CPU time; this takes them as the tests do, and only the crates of this workspace are instrumented.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${FUZZ_SECONDS:-20}
here=redirector/fuzz
targets=()
for file in "$here"/fuzz_targets/*.rs; do
    targets+=("$(basename "$file" .rs)")
done
(($# == 0)) || targets=("$1")

RUSTC_WORKSPACE_WRAPPER=$PWD/$here/instrument.sh \
    cargo build --release --workspace "${targets[@]/#/--bin=}"
if (($# == 2)); then
    exec "target/release/$1" "$2"
fi
failed=0
for target in "${targets[@]}"; do
    grown=target/fuzz/$target
    log=$grown.log
    mkdir -p "$grown" "$here/artifacts/$target"
    printf 'fuzz: %-20s' "$target"
    result=ok
    "target/release/$target" "$grown" "$here/corpus/$target" -artifact_prefix="$here/artifacts/$target/" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -print_final_stats=1 \
        >"$log" 2>&1 || result=FAILED
    stat() { sed -nE "s/^stat::$1: +//p" "$log"; }
    printf '%9s runs %6s new inputs   %s\n' \
        "$(stat number_of_executed_units)" "$(stat new_units_added)" "$result"
    if [[ $result == FAILED ]]; then
        failed=1
        input=$(sed -nE 's/.*Test unit written to +//p' "$log")
        grep -A 4 'panicked at' "$log" || grep 'ERROR' "$log" || tail -n 20 "$log"
        echo "once more:  $here/run.sh $target ${input:-INPUT}"
        echo "all of it:  $log"
    fi
done
exit "$failed"
