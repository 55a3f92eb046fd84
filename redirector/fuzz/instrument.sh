#!/usr/bin/env bash
# The compiler as cargo calls it for this workspace's crates (RUSTC_WORKSPACE_WRAPPER), with what
# libFuzzer needs to see which branches an input takes, and which values it is compared with: the flags
# of `cargo fuzz --sanitizer none`.
set -euo pipefail

case " $* " in
*' --crate-name build_script_build '* | *' --crate-name ___ '*) exec "$@" ;;
esac
exec "$@" --cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-sanitizer-coverage-stack-depth \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
