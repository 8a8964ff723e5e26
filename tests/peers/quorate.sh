#!/usr/bin/env bash
# Quorate on this machine, measured as its peers are. See --help.
set -euo pipefail

usage() { cat <<'EOF'
quorate.sh up N                      `quorate dev` with N nodes on 127.0.0.1; prints the time to the first acknowledged record
quorate.sh down                      ends it; the data goes too, unless KEEP=1
quorate.sh pids                      of the nodes
quorate.sh produce  [key=value ...]  topic=bench producers=1 seconds=20 records=0 (no end) size=100 payload=FILE rate=0 (none) linger=5
                                     batch=65536 compression=none partitions=12 keys=0 warmup=0 fresh=1 (a new topic for the run)
quorate.sh consume  [key=value ...]  topic=bench consumers=1 records=0 (all)
quorate.sh latency  [key=value ...]  rate=10000 seconds=20 size=100 linger=0 consumers=1 producers=1
quorate.sh one      [key=value ...]  seconds=10 size=100: one record at a time
quorate.sh failover [key=value ...]  kind=leader|follower trials=7 rate=10000: one line a trial
quorate.sh idle     [key=value ...]  seconds=20 partitions=0: RSS and CPU of each node

QUORATE_BIN the program (default: target/release/quorate of this repository, which `make release` builds)
PEERS_RUN   data, logs  (default: a new folder in /var/tmp if that is this folder's disk, else here); not a tmpfs
QUORATE_PORT (27000: gRPC of node i on +i, peers on +100+i, HTTP on +200+i)
One JSON object a line on stdout, with the keys of kafka.sh and nats.sh.
EOF
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/common.sh"
PORT=${QUORATE_PORT:-27000}
BIN=${QUORATE_BIN:-$HERE/../../target/release/quorate}

servers() { seq -s, -f "127.0.0.1:%g" $((PORT + 1)) $((PORT + $(cat "$RUN/count"))); }
quorate() { "$BIN" --servers "$(servers)" "$@"; }
pids() { python3 -c 'import json, sys; print(*[n["pid"] for n in json.load(open(sys.argv[1]))["nodes"] if n["pid"]])' "$RUN/data/cluster.json"; }

down() {
  [ -n "$RUN" ] && [ -d "$RUN" ] || return 0
  local dev
  dev=$(cat "$RUN/dev/pid" 2>/dev/null || true)
  if [ -n "$dev" ]; then
    # The nodes end with it, however it ends; frozen ones could not hear it.
    kill -CONT $(pids 2>/dev/null) "$dev" 2>/dev/null || true
    kill -INT "$dev" 2>/dev/null || true
    while kill -0 "$dev" 2>/dev/null; do sleep 0.05; done
  fi
  rm -f "$CURRENT"
  [ "${KEEP:-0}" = 1 ] || rm -rf "$RUN"
}

up() {
  [ -x "$BIN" ] || { echo "quorate.sh: $BIN is missing: say \`make release\`, or name another with QUORATE_BIN" >&2; exit 1; }
  new_run "${1:-3}"
  trap broke ERR INT TERM
  mkdir -p "$RUN/dev"
  # The client runs before the nodes do, so that its own start is not in the figure.
  echo first | quorate produce start --timeout 60s 2>"$RUN/dev/client.log" &
  local client=$! from
  sleep 1
  from=$(now_ms)
  spawn dev "$BIN" dev --nodes "$(cat "$RUN/count")" --data "$RUN/data" --log warn \
    --base-port-grpc $((PORT + 1)) --base-port-peer $((PORT + 101)) --base-port-http $((PORT + 201))
  wait $client
  json peer=quorate what=start nodes="$(cat "$RUN/count")" first_ack_s="$(seconds "$from" "$(now_ms)")"
  until [ -f "$RUN/data/cluster.json" ]; do sleep 0.05; done
}

row() { # what, key=value ... : a document of `quorate bench` as the others' rows
  python3 -c '
import json, sys
got, row = json.load(sys.stdin), {"peer": "quorate", "what": sys.argv[1]}
row |= dict(word.split("=", 1) for word in sys.argv[2:])
row |= {"records": got["records"], "elapsed_s": got["elapsed_s"], "records_s": round(got["records_per_s"]), "mb_s": got["mb_per_s"]}
for name, prefix in (("ack_ms", ""), ("receipt_ms", "receipt_")):
    for key, value in (got.get(name) or {}).items():
        row[f"{prefix}{key}_ms"] = value
row |= {"server_cpu_s": got["cpu_s"]["nodes"], "client_cpu_s": got["cpu_s"]["clients"]}
row |= {"memory_mb": max(got["memory_mb"].values())} if got.get("memory_mb") else {}
print(json.dumps(row))' "$@"
}

given() { [ "${2:-0}" = 0 ] || [ -z "$2" ] || printf '%s\n' "$1" "$2"; } # flag, value: nothing without a value

produce() {
  local topic=bench producers=1 seconds=20 records=0 size=100 payload="" rate=0 linger=5 batch=65536 compression=none partitions=12
  local keys=0 warmup=0 fresh=1 flags
  settings "$@"
  mapfile -t flags < <(given --records "$records"; given --rate "$rate"; given --payload-file "$payload")
  [ -n "$payload" ] || flags+=(--record-bytes "$size")
  [ "$fresh" = 0 ] || flags+=(--fresh)
  quorate bench produce --json --topic "$topic" --partitions "$partitions" --producers "$producers" --seconds "$seconds" \
    --warmup "$warmup" --linger-ms "$linger" --batch-bytes "$batch" --compression "$compression" --key-bytes "$keys" "${flags[@]}" |
    row produce size="$([ -n "$payload" ] && basename "$payload" || echo "$size")" clients="$producers"
}

consume() {
  local topic=bench consumers=1 records=0 flags
  settings "$@"
  mapfile -t flags < <(given --records "$records")
  quorate bench consume --json --topic "$topic" --consumers "$consumers" "${flags[@]}" | row consume clients="$consumers"
}

latency() {
  local rate=10000 seconds=20 size=100 linger=0 consumers=1 producers=1
  settings "$@"
  # The first five seconds are left out, as they are with Kafka.
  quorate bench latency --json --topic bench-latency --fresh --rate "$rate" --seconds "$seconds" --warmup 5 --record-bytes "$size" \
    --linger-ms "$linger" --consumers "$consumers" --producers "$producers" | row "latency at $rate/s" clients="$consumers"
}

one() {
  local seconds=10 size=100
  settings "$@"
  quorate bench one --json --topic bench-one --fresh --seconds "$seconds" --warmup 2 --record-bytes "$size" | row "one at a time"
}

failover() {
  local kind=leader trials=7 rate=10000
  settings "$@"
  quorate bench failover --json --data "$RUN/data" --kind "$kind" --trials "$trials" --rate "$rate" 2>/dev/null | python3 -c '
import json, sys
for number, trial in enumerate(json.load(sys.stdin)["trials"], 1):
    print(json.dumps({"peer": "quorate", "what": "failover", "kind": sys.argv[1], "trial": number, "victim": trial["killed"],
                      "gap_s": round(trial["gap_ms"] / 1e3, 4)}))' "$kind"
}

idle() {
  local seconds=20 partitions=0
  settings "$@"
  if [ "$partitions" -gt 0 ]; then
    quorate topic create "idle-$partitions" --partitions "$partitions" >/dev/null
    sleep 10
  fi
  idle_cost quorate "$seconds" "$partitions"
}

dispatch up down pids produce consume latency one failover idle -- "$@"
