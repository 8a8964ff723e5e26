#!/usr/bin/env bash
# Plants bugs and looks whether the ordinary swarm finds them; and patches that harm nothing, which must raise no alarm.
#
#   sim/planted/run.sh K04       until an oracle that fits fires, or 30 CPU-minutes have passed; then the seed, again
#   sim/planted/run.sh H03       1,000 runs, in which nothing may be found
#   sim/planted/run.sh all       everything, as a table
#   sim/planted/run.sh --help    this
#
# Ends with 0 if all is as it should be, 1 if a bug is not found or a harmless patch raises an alarm, 2 if it was asked
# for what there is not. FROM is the first seed (0), JOBS how many run at a time (2), CPU_MINUTES and RUNS the bounds.
# A patch's head says what it plants and which oracles fit; one with a line `Crate: NAME` is for that crate's source, of
# which a copy takes the place of the one in the registry. All are built in one copy of the tree at one place and into
# one folder of their own, so that what does not change is built once. It is not the one that `make sim` builds in:
# cargo does not tell the crates of two copies of a tree apart, and would take the planted ones for the real ones.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

from=${FROM:-0}
jobs=${JOBS:-2}
cpu_minutes=${CPU_MINUTES:-30}
runs_harmless=${RUNS:-1000}
# So many runs between two looks at the clock.
at_once=10

target=${CARGO_TARGET_DIR:-$root/target}/seeded
tree=$target/planted
built=$target/planted-build
sim=$built/sim/quorate-sim

die() { echo "planted: $*" >&2; exit 2; }

# The tree as it is, without what git does not know. Only files that differ are written: cargo goes by their times.
copy_tree() {
  mkdir -p "$tree"
  (cd "$root" && git ls-files -z --cached --others --exclude-standard) > "$target/planted.files"
  while IFS= read -r -d '' file; do
    [ -f "$root/$file" ] || continue
    if ! cmp -s "$root/$file" "$tree/$file"; then
      mkdir -p "$tree/$(dirname "$file")"
      cp "$root/$file" "$tree/$file"
    fi
  done < "$target/planted.files"
  # What has gone from the tree would still be compiled.
  (cd "$tree" && find . -name '*.rs' -print) | sed 's|^\./||' | while IFS= read -r file; do
    [ -f "$root/$file" ] || rm "$tree/$file"
  done
}

# A copy of a crate's source as it is in the registry, which the copy of the tree uses from now on.
copy_crate() { # name; sets crate
  local manifest
  manifest=$(cd "$root" && "${CARGO:-cargo}" metadata --format-version 1 --locked |
    grep -o "\"manifest_path\":\"[^\"]*/$1-[0-9][^\"/]*/Cargo.toml\"" | sed -n 1p | cut -d '"' -f 4)
  [ -n "$manifest" ] || die "nothing is known of a crate $1"
  crate=$target/planted-crates/$1
  rm -rf "$crate"
  mkdir -p "$(dirname "$crate")"
  cp -R "$(dirname "$manifest")" "$crate"
  # It lies in a workspace's folder, and is none of its members.
  printf '\n[workspace]\n' >> "$crate/Cargo.toml"
  sed -i "/^\[patch.crates-io\]/a $1 = { path = \"$crate\" }" "$tree/Cargo.toml"
}

build() { # patch
  local name at=$tree
  copy_tree
  name=$(sed -n 's/^Crate: //p' "$1")
  if [ -n "$name" ]; then
    copy_crate "$name"
    at=$crate
  fi
  (cd "$at" && GIT_CEILING_DIRECTORIES=$target git apply "$1") || die "$1 does not apply: see $here/README.md"
  (cd "$tree" && CARGO_TARGET_DIR=$built RUSTFLAGS="--cfg tokio_unstable" \
    "${CARGO:-cargo}" build --quiet --profile sim -p quorate-sim) || die "does not compile with $1"
}

# Seconds of CPU that all children have used so far, into `now`. Not by $(..), whose own children are none.
look() {
  times > "$target/planted.times"
  now=$(awk 'NR == 2 { split($1, u, /[ms]/); split($2, s, /[ms]/); printf "%d\n", u[1] * 60 + u[2] + s[1] * 60 + s[2] }' \
    "$target/planted.times")
}

# Of a sweep's document: "seed oracle message" of each violation.
violations() {
  grep -o '{"seed":[0-9]*,"oracle":"[^"]*","at_ms":[0-9]*,"message":"\([^"\\]\|\\.\)*"' "$1" |
    sed 's/{"seed":\([0-9]*\),"oracle":"\([^"]*\)","at_ms":[0-9]*,"message":"\(.*\)"$/\1 \2 \3/' || true
}

sweep() { # first count out; sets code
  code=0
  "$sim" sweep --from "$1" --count "$2" --jobs "$jobs" --json > "$3" || code=$?
  # 3: the simulator itself failed, as it may with a bug planted.
  [ "$code" = 0 ] || [ "$code" = 1 ] || [ "$code" = 3 ] || die "quorate-sim ended with $code"
}

plant() { # name; sets found, seed, oracle, said, runs, spent, others, replayed
  local patch=$here/$1.patch out=$target/planted.json fits began
  fits=$(sed -n 's/^Fits: //p' "$patch")
  build "$patch"
  found='' seed='' oracle='' said='' runs=0 others='' replayed=''
  look
  began=$now
  while look; spent=$((now - began)); [ "$spent" -lt $((cpu_minutes * 60)) ]; do
    sweep $((from + runs)) "$at_once" "$out"
    runs=$((runs + at_once))
    while read -r at promise what; do
      if [[ " $fits " == *" $promise "* ]]; then
        if [ -z "$found" ] || [ "$at" -lt "$seed" ]; then found=yes seed=$at oracle=$promise said=$what; fi
      else
        [[ " $others " == *" $promise "* ]] || others="$others $promise"
      fi
    done < <(violations "$out")
    [ -z "$found" ] || break
  done
  look
  spent=$((now - began))
  if [ -n "$found" ]; then
    "$sim" run --seed "$seed" --json > "$out" || true
    if violations "$out" | grep -q "^$seed $oracle "; then replayed=yes; else replayed=no; fi
  fi
}

harmless() { # name; sets runs, alarms, spent
  local out=$target/planted.json began
  build "$here/$1.patch"
  look
  began=$now
  sweep "$from" "$runs_harmless" "$out"
  runs=$runs_harmless
  alarms=$(violations "$out" | cut -c 1-300)
  [ "$code" = 0 ] || [ -n "$alarms" ] || alarms="quorate-sim ended with $code"
  look
  spent=$((now - began))
}

one() { # name
  case $1 in
    H*)
      harmless "$1"
      if [ -n "$alarms" ]; then printf '%s: alarms within %d runs:\n%s\n' "$1" "$runs" "$alarms"; return 1; fi
      echo "$1: silent in $runs runs, $spent s of CPU"
      ;;
    *)
      plant "$1"
      if [ -z "$found" ]; then
        echo "$1: NOT FOUND in $runs runs, $spent s of CPU${others:+; other alarms:$others}"
        return 1
      fi
      echo "$1: found by $oracle with seed $seed, within $runs runs, $spent s of CPU; replayed: $replayed${others:+; also:$others}"
      echo "  $said" | cut -c 1-400
      [ "$replayed" = yes ]
      ;;
  esac
}

table() {
  local name what bad=0
  echo '| patch | what | found by | seed | runs | CPU s | replayed |'
  echo '| --- | --- | --- | --- | --- | --- | --- |'
  for patch in "$here"/[KH]*.patch; do
    name=$(basename "$patch" .patch)
    what=$(sed -n "1s/^$name: //p" "$patch")
    case $name in
      H*)
        harmless "$name"
        [ -z "$alarms" ] || bad=1
        echo "| $name | $what | $([ -z "$alarms" ] && echo nothing || echo "ALARM") | | $runs | $spent | |"
        ;;
      *)
        plant "$name"
        [ "$replayed" = yes ] || bad=1
        echo "| $name | $what | ${oracle:-NOT FOUND} | $seed | $runs | $spent | $replayed |"
        ;;
    esac
  done
  return "$bad"
}

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }

patches() { (cd "$here" && echo [KH]*.patch | sed 's/\.patch//g'); }

[ $# -le 1 ] || die "one patch at a time, or all; these are $#: $*"
case ${1:-} in
  -h | --help) usage ;;
  all) table ;;
  '') die "say which: $(patches), or all" ;;
  *)
    [[ $1 =~ ^[KH][0-9]+$ && -f $here/$1.patch ]] || die "there is no patch $1; there are $(patches), and all"
    one "$1"
    ;;
esac
