# Tributary on one machine. `make help` lists the targets.

# The data folder of `make run` and `make replay`.
DATA ?= data

launcher := target/release/tributary-local
# One build of the whole workspace's dependencies serves every target.
cargo_build := cargo build --release --workspace
services := --bin redirector --bin processor --bin admin-api --bin tributary-local

.PHONY: help run replay test fuzz bench bench-facts bench-money drill drill-money setup build fmt lint clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## start everything; Ctrl-C stops it (DATA=folder for a second copy)
	@$(launcher) run --data "$(DATA)"

replay: build ## send real traffic through it and check every click and cent
	@$(cargo_build) --bin replay
	@$(launcher) exec --services --data "$(DATA)" -- target/release/replay

test: setup ## all tests, on one set of real engines
	@$(cargo_build) --bin tributary-local
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && \
	    $(launcher) exec --data "$$data" -- cargo test --release --workspace

# FUZZ_SECONDS=600 for a longer look.
fuzz: setup ## hostile input for 20 s into each reader of what strangers send
	@redirector/fuzz/run.sh

bench: build ## the redirect's cost beside nginx's
	@deploy/local/setup.sh bench
	@$(cargo_build) --bin peers
	@benches/redirect.sh

# FACTS_CLICKS=10000000 asks the dashboard's questions of ten million clicks alone; a hundred take 10 GB.
FACTS_CLICKS ?= 10000000,100000000
bench-facts: build ## the facts: way in, freshness, the dashboard's questions of 100 million clicks
	@deploy/local/setup.sh facts
	@$(cargo_build) --bin facts
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && \
	    CHAFKA=.engines/bin/chafka CITY_FILE=.engines/cities.mmdb \
	        $(launcher) exec --data "$$data/transport" -- target/release/facts transport && \
	    $(launcher) exec --services --data "$$data/system" -- sh -c \
	        'target/release/facts fresh && target/release/facts questions --clicks $(FACTS_CLICKS)'

bench-money: build ## conversions a second of the processor's CPU
	@$(cargo_build) --bin money
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && \
	    $(launcher) exec --data "$$data" -- target/release/money speed

# KAFKA_AWAY_SECONDS=20 and DRILL_ROUNDS=5 make the two longest drills short; DRILL_SEED draws other rounds.
# Eight runtimes have eight segments in use, so that several processors have something to do. What dies is
# restarted at once however often it does, or else fifty rounds would be spent waiting.
drill: build ## kill everything in turn and at random under load and count every click
	@$(cargo_build) --bin drill
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && \
	    WORKERS=8 $(launcher) exec --services --longest-restart-pause-ms 500 --data "$$data" -- target/release/drill

# MONEY_CONVERSIONS=5000 MONEY_KILLS=3 for a small one; MONEY_SEED draws other orders and other moments.
drill-money: build ## 100,000 orders while processor and PostgreSQL are killed, every cent audited
	@$(cargo_build) --bin money
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && \
	    $(launcher) exec --longest-restart-pause-ms 500 --data "$$data" -- target/release/money audit

setup: ## bring what is missing: Debian packages, the engines' files
	@deploy/local/setup.sh

build: setup ## compile the services and the launcher
	@$(cargo_build) $(services)

fmt: ## format the code
	@cargo fmt --all

lint: setup ## formatting and lints, as .ci/run checks them
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --release -- -D warnings

clean: ## remove what was compiled; data and engines stay
	@cargo clean
