#!/usr/bin/env bash
# Which lines of the parts of node that must never err does a sweep reach?
#
#   sim/coverage.sh [arguments of quorate-sim]      default: sweep --from 0 --count 300
#
# Builds the simulator with rustc's own counters, sweeps, and prints a line per file and the sum. LLVM_PROFDATA and
# LLVM_COV name the tools (Debian's llvm package has them; they must not be older than rustc's LLVM). FLOOR is the
# least percentage of lines; below it the exit status is 1.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

target=${CARGO_TARGET_DIR:-$root/target}/coverage
profdata=${LLVM_PROFDATA:-llvm-profdata}
cov=${LLVM_COV:-llvm-cov}
floor=${FLOOR:-85}
parts='storage|raft|partition|controller'
[ $# -gt 0 ] || set -- sweep --from 0 --count 300

for tool in "$profdata" "$cov"; do
  command -v "$tool" > /dev/null || { echo "coverage: $tool is missing: apt-get install llvm, or name it by LLVM_PROFDATA and LLVM_COV" >&2; exit 2; }
done

# Less optimised than a sweep is otherwise: lines that are merged or inlined away would be counted badly.
CARGO_TARGET_DIR=$target CARGO_INCREMENTAL=0 RUSTFLAGS="--cfg tokio_unstable -C instrument-coverage" \
  "${CARGO:-cargo}" build --quiet --profile sim --config 'profile.sim.codegen-units=16' \
  --config 'profile.sim.opt-level=1' -p quorate-sim

rm -f "$target"/sweep-*.profraw
status=0
LLVM_PROFILE_FILE="$target/sweep-%p.profraw" "$target/sim/quorate-sim" "$@" >&2 || status=$?
[ "$status" -le 1 ] || { echo "coverage: quorate-sim ended with $status" >&2; exit 2; }
"$profdata" merge -sparse "$target"/sweep-*.profraw -o "$target/sweep.profdata"

# Tests' lines are not in this build. Of an lcov record: DA:line,count.
"$cov" export -format=lcov -instr-profile "$target/sweep.profdata" "$target/sim/quorate-sim" > "$target/sweep.lcov"
awk -v parts="node/src/($parts)[./]" -v floor="$floor" '
  /^SF:/ { file = substr($0, 4); sub(/^.*\/node\/src\//, "node/src/", file); wanted = file ~ parts }
  /^DA:/ && wanted {
    split(substr($0, 4), da, ",")
    key = file ":" da[1]
    if (!(key in seen)) { seen[key] = 1; lines[file]++; all++ }
    if (da[2] > 0 && !(key in hit)) { hit[key] = 1; hits[file]++; reached++ }
  }
  END {
    for (file in lines) printf "%6.1f %%  %4d of %4d  %s\n", 100 * hits[file] / lines[file], hits[file], lines[file], file | "sort -k6"
    close("sort -k6")
    if (!all) { print "coverage: no line of " parts " was counted" > "/dev/stderr"; exit 2 }
    printf "%6.1f %%  %d of %d lines of node/src/{storage,raft,partition,controller}\n", 100 * reached / all, reached, all
    exit (100 * reached / all < floor)
  }' "$target/sweep.lcov"
