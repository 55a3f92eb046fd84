#!/usr/bin/env bash
# The redirect beside nginx's `return 302`, in one run on one machine.
#
#   benches/redirect.sh
#
# Starts a redirector of its own on CPU 0, beside a running system whose Redis and Kafka it uses, so that
# each click really goes to Kafka; and nginx with one worker, also on CPU 0, whose answer has the same
# headers. wrk on CPU 1 asks one and then the other, PAIRS times. CPU is the whole process's user and
# system time, all threads, per request. At the end each accepted click must have reached Kafka.
#
# Settings, by environment: PAIRS, SECONDS_EACH, CONNECTIONS, and REDIRECTOR, the program that is measured.
# Everything listens on 127.0.0.1.
set -euo pipefail
export LC_ALL=C

pairs=${PAIRS:-5}
seconds=${SECONDS_EACH:-8}
connections=${CONNECTIONS:-64}
warm_up_seconds=3
settle_limit_seconds=120

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/target/release
redirector=${REDIRECTOR:-$bin/redirector}
nginx=$(PATH=$PATH:/usr/sbin command -v nginx || true)

fail() {
    printf 'redirect.sh: %s\n' "$*" >&2
    exit 1
}
for program in curl taskset awk; do
    command -v "$program" >/dev/null || fail "$program is missing"
done
[[ -n $nginx ]] && command -v wrk >/dev/null || fail 'nginx or wrk is missing; run: deploy/local/setup.sh bench'
[[ -x $redirector && -x $bin/tributary-local ]] || fail 'the programs are not built; run: make build'
(($(nproc) >= 2)) || fail 'two CPUs are needed: one for the server, one for wrk'

work=$(mktemp -d)
chmod 755 "$work" # nginx's worker runs as another user
own_pids=()
clean_up() {
    trap - EXIT INT TERM
    local pid
    for pid in "${own_pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${own_pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Without a running system: one for the duration, in a folder that goes with it.
if [[ -z ${TRIBUTARY_RUN_JSON:-} ]]; then
    "$bin/tributary-local" exec --services --data "$work/data" -- "$root/benches/redirect.sh" &
    own_pids+=($!)
    wait $!
    exit
fi

# The value of a name that stands once in a JSON file written one value a line.
value() { sed -nE "s/^ *\"$2\": \"([^\"]*)\",?$/\1/p" "$1" | head -n 1; }
run=$TRIBUTARY_RUN_JSON
secrets=$(dirname "$run")/secrets.json
code=$(basename "$(value "$run" link_url)")
processor_metrics=$(sed -n '/"processor"/,/}/p' "$run" | sed -nE 's/^ *"metrics": "([^"]*)",?$/\1/p')
[[ -n $code && -n $processor_metrics ]] || fail "$run does not name the demo link and the processor's metrics"

next_port=18080
free_port() { # into $port
    while (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; do next_port=$((next_port + 1)); done
    port=$next_port
    next_port=$((next_port + 1))
}
until_it_answers() { # url
    for _ in $(seq 100); do
        curl -fsS -o /dev/null "$1" 2>/dev/null && return
        sleep 0.1
    done
    fail "$1 does not answer; see the lines above"
}

free_port && a=http://127.0.0.1:$port/r/$code && a_listen=127.0.0.1:$port
free_port && a_operations=127.0.0.1:$port
free_port && b=http://127.0.0.1:$port/r/$code && b_listen=127.0.0.1:$port

LISTEN=$a_listen METRICS_LISTEN=$a_operations RUST_LOG=warn \
    CLICK_TOKEN_KEYS=$(value "$secrets" click_token_keys) FINGERPRINT_KEY=$(value "$secrets" fingerprint_key) \
    taskset -c 0 "$redirector" &
a_pid=$!
own_pids+=("$a_pid")
until_it_answers "http://$a_operations/readyz"

# nginx gives the answer that the redirector gave to one request, header by header.
request=(
    -H 'User-Agent: Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/32.0.1700.107 Safari/537.36'
    -H 'Accept-Language: en-US,en;q=0.8'
    -H 'Referer: https://blog.example/the-ten-best-knives'
    -H 'Cookie: aff_visitor=AZASNFZ4erwN7wEjRWeJqw'
)
curl -sS -o /dev/null -D "$work/answer" "${request[@]}" "$a"
header() { # name, from the answer; a line each
    awk -v name="$1" 'BEGIN { FS = ": " } tolower($1) == name { sub(/^[^:]*: /, ""); sub(/\r$/, ""); print }' "$work/answer"
}
grep -q '^HTTP/1.1 302' "$work/answer" || fail "$a is not answered by a 302"
{
    printf 'daemon off;\nworker_processes 1;\npid %s/nginx.pid;\nerror_log stderr warn;\n' "$work"
    printf 'events { worker_connections 1024; }\nhttp {\n  access_log off;\n  server_tokens off;\n'
    printf '  keepalive_requests 1000000000;\n'
    for folder in client_body proxy fastcgi uwsgi scgi; do printf '  %s_temp_path %s/%s;\n' $folder "$work" $folder; done
    printf '  server {\n    listen %s;\n    location /r/ {\n' "$b_listen"
    for name in cache-control referrer-policy x-robots-tag set-cookie; do
        header $name | while IFS= read -r text; do printf '      add_header %s "%s";\n' $name "$text"; done
    done
    printf '      return 302 "%s";\n    }\n  }\n}\n' "$(header location)"
} >"$work/nginx.conf"
taskset -c 0 "$nginx" -p "$work" -c "$work/nginx.conf" &
own_pids+=($!)
until_it_answers "$b"
b_pid=$(pgrep -P $! | head -n 1) # the worker

number() { # url of metrics, name: the sum over labels
    curl -fsS "$1" | awk -v name="$2" '$1 == name || index($1, name "{") == 1 { n += $2 } END { printf "%d\n", n }'
}
clicks() { number "http://$a_operations/metrics" "tributary_clicks_$1_total"; }
stored() { number "$processor_metrics" tributary_facts_written_total; }
# Until Kafka has every click and the processor has stored what it got, so that what one measurement left
# to be done doesn't run beside the next.
settle() {
    local deadline=$((SECONDS + settle_limit_seconds)) before=-1 now
    while ((SECONDS < deadline)); do
        now=$(stored)
        if [[ $(clicks accepted) == "$(clicks delivered)" && $now == "$before" ]]; then return; fi
        before=$now
        sleep 1.5
    done
    fail "the clicks are not delivered and stored after $settle_limit_seconds s"
}
cpu_ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
ticks_a_second=$(getconf CLK_TCK)

# measure name url pid seconds: a line "requests/s, CPU µs a request, share of CPU 0 in %, p50, p99"
measure() {
    local before after
    before=$(cpu_ticks "$3")
    taskset -c 1 wrk -t1 -c"$connections" -d"$4"s --latency "${request[@]}" "$2" >"$work/wrk"
    after=$(cpu_ticks "$3")
    if grep -qE 'Non-2xx|Socket errors' "$work/wrk"; then
        cat "$work/wrk" >&2
        fail "$1 did not answer every request"
    fi
    awk -v ticks=$((after - before)) -v hz="$ticks_a_second" -v seconds="$4" '
        $2 == "requests" && $3 == "in" { requests = $1 }
        $1 == "Requests/sec:" { rate = $2 }
        $1 == "50%" { p50 = $2 }
        $1 == "99%" { p99 = $2 }
        END { printf "%.0f %.2f %.0f %s %s %d\n", rate, ticks / hz * 1e6 / requests, 100 * ticks / hz / seconds, p50, p99, requests }
    ' "$work/wrk"
}

printf '%s\n%s, %s CPUs; %s connections, %s s each\n\n' \
    "$(date -u +%F) $("$nginx" -v 2>&1 | sed 's/.*: //'), $(wrk -v 2>&1 | awk 'NR == 1 { print $1, $2 }')" \
    "$(sed -nE 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$connections" "$seconds"
printf 'Location: %s bytes. Redirector pid %s, nginx worker pid %s.\n\n' "$(header location | wc -c)" "$a_pid" "$b_pid"

measure redirector "$a" "$a_pid" $warm_up_seconds >"$work/warm-up"
settle
measure nginx "$b" "$b_pid" $warm_up_seconds >>"$work/warm-up"
printf '%-6s %-11s %11s %15s %12s %10s %10s\n' pair server 'requests/s' 'CPU µs/request' 'of CPU 0, %' p50 p99
for pair in $(seq "$pairs"); do
    for server in redirector nginx; do
        settle
        if [[ $server == redirector ]]; then line=$(measure $server "$a" "$a_pid" "$seconds"); else line=$(measure $server "$b" "$b_pid" "$seconds"); fi
        read -r rate cpu share p50 p99 requests <<<"$line"
        printf '%-6s %-11s %11s %14s %12s %10s %10s\n' "$pair" $server "$rate" "$cpu" "$share" "$p50" "$p99"
        printf '%s %s %s %s %s\n' "$pair" $server "$rate" "$cpu" "$requests" >>"$work/results"
    done
done
settle

sorted() { sort -g | awk '{ v[NR] = $1 } END { m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2; print v[1], m, v[NR] }'; }
column() { awk -v server="$1" -v column="$2" '$2 == server { print $column }' "$work/results" | sorted; }
ratio() { # redirector to nginx, pair by pair
    awk -v column="$1" '$2 == "redirector" { a = $column } $2 == "nginx" { printf "%.2f\n", a / $column }' "$work/results" | sorted
}
printf '\n%-42s %10s %10s %10s\n' '' least median most
for server in redirector nginx; do
    printf '%-42s %10s %10s %10s\n' "$server, requests/s" $(column $server 3)
    printf '%-42s %10s %10s %10s\n' "$server, CPU us per request" $(column $server 4)
done
printf '%-42s %10s %10s %10s\n' 'redirector to nginx, requests/s' $(ratio 3)
printf '%-42s %10s %10s %10s\n' 'redirector to nginx, CPU per request' $(ratio 4)

accepted=$(clicks accepted) delivered=$(clicks delivered) lost=$(clicks lost)
counted=$(awk '$2 == "redirector" { n += $5 } END { print n }' "$work/results" <(awk 'NR == 1 { print 0, "redirector", 0, 0, $6 }' "$work/warm-up"))
printf '\nClicks: %s counted by wrk, %s accepted, %s delivered to Kafka, %s lost.\n' "$counted" "$accepted" "$delivered" "$lost"
# Answers that wrk no longer read at the end of a measurement, and the one request that nginx's copy came from.
((accepted == delivered && lost == 0 && accepted >= counted)) || fail 'clicks were lost'
