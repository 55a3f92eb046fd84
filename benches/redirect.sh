#!/usr/bin/env bash
# The redirect beside nginx's `return 302`, in one run on one machine with two CPUs: engines of its own for
# the duration, the measured server alone on CPU 0, load and engines on CPU 1, and the result as Markdown on
# standard output. What is measured and how stands in load-tests/src/peers/.
#
#   benches/redirect.sh [options of target/release/peers]
#
# Settings, by environment: ROUNDS, SECONDS_EACH, CONNECTIONS, WARM_LINKS, LINKS, STARTS, REDIRECTOR (the program
# that is measured), and whatever the redirector itself reads.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/target/release

fail() {
    printf 'redirect.sh: %s\n' "$*" >&2
    exit 1
}
for program in chrt taskset setpriv; do
    command -v "$program" >/dev/null || fail "$program is missing"
done
[[ -x /usr/sbin/nginx ]] || command -v nginx >/dev/null || fail 'nginx is missing; run: deploy/local/setup.sh bench'
[[ -x ${REDIRECTOR:-$bin/redirector} && -x $bin/peers && -x $bin/tributary-local ]] ||
    fail 'the programs are not built; run: make bench'
(($(nproc) >= 2)) || fail 'two CPUs are needed: one for the server, one for the load'

data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
# The engines share the load's CPU, and the load goes first there; who may not have that (it needs root) sees
# latencies with Kafka's share in them.
first=()
if chrt --fifo 10 true 2>/dev/null; then
    first=(chrt --reset-on-fork --fifo 10)
fi
taskset -c 1 "$bin/tributary-local" exec --data "$data" -- "${first[@]}" "$bin/peers" "$@"
