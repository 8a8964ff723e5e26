#!/usr/bin/env bash
# Which lines of the parts of node that must never err does a sweep reach?
#
#   sim/coverage.sh [arguments of quorate-sim]      default: sweep --from 0 --count 300
#
# Builds our crates, and only ours, with rustc's own counters, sweeps, and prints a line per file and the sum.
# LLVM_PROFDATA and LLVM_COV name the tools, which must not be older than rustc's LLVM (rustc -vV): Debian's packages
# llvm-NN have them, as llvm-profdata-NN and llvm-cov-NN. FLOOR is the least percentage of lines (85); below it the
# exit status is 1. PROFILE is cargo's profile (sim).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

seeded=${CARGO_TARGET_DIR:-$root/target}/seeded
work=${CARGO_TARGET_DIR:-$root/target}/coverage
floor=${FLOOR:-85}
profile=${PROFILE:-sim}
version=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
tool() { command -v "$1-$version" || command -v "$1" || true; }
profdata=${LLVM_PROFDATA:-$(tool llvm-profdata)}
cov=${LLVM_COV:-$(tool llvm-cov)}
if [ -z "$profdata" ] || [ -z "$cov" ]; then
  echo "coverage: llvm-profdata or llvm-cov is missing: apt-get install llvm-$version, or name them by LLVM_PROFDATA and LLVM_COV" >&2
  exit 2
fi
[ $# -gt 0 ] || set -- sweep --from 0 --count 300

# What others wrote is shared with `make sim`; ours goes by another name there, for it has another compiler.
mkdir -p "$work"
printf '#!/bin/sh\nexec "$@" -C instrument-coverage\n' > "$work/rustc"
chmod +x "$work/rustc"
ours=()
for crate in proto client node sim; do ours+=(--config "profile.$profile.package.quorate-$crate.opt-level=1"); done
LLVM_PROFILE_FILE=/dev/null RUSTC_WORKSPACE_WRAPPER=$work/rustc CARGO_TARGET_DIR=$seeded \
  RUSTFLAGS="--cfg tokio_unstable" "${CARGO:-cargo}" build --quiet --profile "$profile" "${ours[@]}" -p quorate-sim
cp "$seeded/${profile/#dev/debug}/quorate-sim" "$work/quorate-sim"

rm -f "$work"/*.profraw
status=0
LLVM_PROFILE_FILE="$work/%p.profraw" "$work/quorate-sim" "$@" >&2 || status=$?
[ "$status" != 2 ] || exit 2
"$profdata" merge -sparse "$work"/*.profraw -o "$work/sweep.profdata"

# Unit tests' lines are not in this build. Of the records: SF:file, DA:line,count.
"$cov" export -format=lcov -instr-profile "$work/sweep.profdata" "$work/quorate-sim" > "$work/sweep.lcov"
awk -v floor="$floor" '
  /^SF:/ { file = substr($0, 4); sub(/^.*\/node\/src\//, "node/src/", file)
           wanted = file ~ /^node\/src\/(storage|raft|partition|controller)\// }
  /^DA:/ && wanted {
    split(substr($0, 4), da, ",")
    key = file ":" da[1]
    if (!(key in seen)) { seen[key] = 1; lines[file]++; all++ }
    if (da[2] > 0 && !(key in hit)) { hit[key] = 1; hits[file]++; reached++ }
  }
  END {
    if (!all) { print "coverage: no line was counted" > "/dev/stderr"; exit 2 }
    for (file in lines)
      printf "%6.1f %%  %4d of %4d  %s\n", 100 * hits[file] / lines[file], hits[file], lines[file], file | "sort -k6"
    close("sort -k6")
    printf "%6.1f %%  %d of %d lines of node/src/{storage,raft,partition,controller}\n", 100 * reached / all, reached, all
    exit (100 * reached / all < floor)
  }' "$work/sweep.lcov"
