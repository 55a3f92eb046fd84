#!/bin/sh
# Makes t.min.js from t.js. Its first bytes name the source, so that a test can tell when it is old.
set -eu
cd "$(dirname "$0")"
hash=$(sha256sum t.js | cut -c 1-8)
npx --yes terser@5.51.2 t.js --ecma 2018 --compress passes=3,unsafe_arrows=true --mangle \
    --format "preamble='/*$hash*/'" --output t.min.js
wc -c t.min.js
