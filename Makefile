# Everything that a person types here. `make test` is what `.ci/run` runs, by way of `make verify`.

CARGO ?= cargo
# Plain cargo's own folder, and one beside it for what is built with tokio's seeded scheduler (the simulator needs it).
TARGET := $(or $(CARGO_TARGET_DIR),target)
SEEDED := CARGO_TARGET_DIR=$(abspath $(TARGET))/seeded RUSTFLAGS="--cfg tokio_unstable"
QUORATE := $(TARGET)/release/quorate
SEED ?= 7
ARGS ?= run --seed $(SEED)
# How the sample is called that `make sample` makes of the format on disk.
NAME ?=
# Flags of `make retention`, `make restart`, `make replace` and `make bench-peers`, such as OPTIONS="--bytes 1000000000".
OPTIONS ?=
INPUT ?=
SIM := $(TARGET)/seeded/sim/quorate-sim
# How many seeds `make seeds` sweeps, and how many `make test` runs twice.
SEEDS ?= 300
TWICE ?= 200

.PHONY: help run test tour rounds retention restart replace sample rolling quiet full-disk bench-peers simulator sim seeds soak verify fix release

help:
	@echo 'make run                 three nodes on this machine: builds, starts `quorate dev`, Ctrl-C ends it'
	@echo 'make test                all tests, those of the simulator optimised'
	@echo 'make tour INPUT=file     the whole story on a real file: leaders are killed, every line is read back'
	@echo 'make rounds              ten rounds of kills on real processes, and all three nodes at once'
	@echo 'make retention           ten minutes of full load on topics that keep 200 MB: what the disks hold, each second'
	@echo 'make restart             how soon a node with 10 GB on its disk commits again after kill -9'
	@echo 'make replace             a node whose disk is gone is replaced under load, with 5 GB to fetch'
	@echo '                         OPTIONS="--bytes N" shortens these three; retention takes --seconds and --away too'
	@echo 'make sample NAME=..      keeps what is on the disk today, for the test that opens it from now on'
	@echo 'make rolling             three real nodes restart one after the other under load: the longest silences'
	@echo 'make quiet               what a thousand quiet partitions cost three real nodes'
	@echo 'make full-disk           a disk of 256 MB fills up and has room again; needs root, for a loop device'
	@echo 'make bench-peers         Quorate, Kafka and NATS side by side, over an hour; see tests/peers/README.md'
	@echo 'make sim SEED=7          one simulated run; make sim ARGS="sweep --from 0 --count 100" for many,'
	@echo '                         or ARGS=marks, exhaust, "run --help" (scenarios, classes of faults), oracles'
	@echo 'make seeds               300 simulated runs, none of which may break a promise'
	@echo 'make soak                hours: a long sweep, runs of 600 s and one of 24 h, every power cut'
	@echo 'make verify              format, lints, docs and tests: what must pass before a commit'
	@echo 'make fix                 formats, and applies what clippy can mend'

release:
	@$(CARGO) build --release --quiet --bin quorate

run:
	$(CARGO) build --release --bin quorate
	@exec $(QUORATE) dev

test:
	$(SEEDED) $(CARGO) build --workspace --bins
	$(SEEDED) $(CARGO) test --workspace --exclude quorate-sim --no-fail-fast
	$(SEEDED) QUORATE_SIM_SEEDS=$(TWICE) $(CARGO) test --profile sim -p quorate-sim --no-fail-fast

tour: release
	@$(CARGO) build --release --quiet -p quorate-tests --bin tour
	@QUORATE_BIN=$(abspath $(QUORATE)) $(TARGET)/release/tour $(if $(INPUT),--input $(INPUT))

rounds: release
	@$(CARGO) build --release --quiet -p quorate-tests --bin rounds
	@QUORATE_BIN=$(abspath $(QUORATE)) $(TARGET)/release/rounds

retention restart replace: release
	@$(CARGO) build --release --quiet -p quorate-tests --bin $@
	@QUORATE_BIN=$(abspath $(QUORATE)) $(TARGET)/release/$@ $(OPTIONS)

# Run by cargo: it says where the samples lie.
sample: release
	@QUORATE_BIN=$(abspath $(QUORATE)) $(CARGO) run --release --quiet -p quorate-tests --bin sample -- $(NAME)

rolling: release
	@$(CARGO) build --release --quiet -p quorate-tests --bin rolling
	@QUORATE_BIN=$(abspath $(QUORATE)) $(TARGET)/release/rolling

quiet: release
	@$(CARGO) build --release --quiet -p quorate-tests --bin quiet
	@QUORATE_BIN=$(abspath $(QUORATE)) $(TARGET)/release/quiet

full-disk: release
	@$(CARGO) build --release --quiet -p quorate-tests --bin full_disk
	@QUORATE_BIN=$(abspath $(QUORATE)) $(TARGET)/release/full_disk

bench-peers: release
	@QUORATE_BIN=$(abspath $(QUORATE)) tests/peers/rounds.py --out $(TARGET)/peers.jsonl $(OPTIONS)

simulator:
	@$(SEEDED) $(CARGO) build --quiet --profile sim -p quorate-sim

sim: simulator
	@$(SIM) $(ARGS)

seeds: simulator
	$(SIM) sweep --from 0 --count $(SEEDS)

# The sweep ends by itself at the first wrong run; each of the others says what it is.
soak: simulator
	$(SIM) sweep --from 1000000 --for 75m --stop-at-first
	$(SIM) sweep --from 2000000 --count 60 --length 600s --stop-at-first
	$(SIM) run --seed 3000000 --length 24h
	$(SIM) exhaust
	$(SEEDED) QUORATE_SIM_SEEDS=1000 $(CARGO) test --profile sim -p quorate-sim --no-fail-fast

verify:
	$(CARGO) fmt --all --check
	$(SEEDED) $(CARGO) clippy --workspace --all-targets -- -D warnings
	$(SEEDED) RUSTDOCFLAGS="-D warnings --cfg tokio_unstable" $(CARGO) doc --workspace --no-deps
	$(MAKE) test
	# What the tests have just built; `make seeds` would build it once more, with fewer features of what is below.
	$(SIM) sweep --from 0 --count $(SEEDS)

fix:
	$(SEEDED) $(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all
