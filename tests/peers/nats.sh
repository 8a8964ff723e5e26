#!/usr/bin/env bash
# NATS JetStream on this machine, as a peer to compare with. See --help.
set -euo pipefail

usage() { cat <<'EOF'
nats.sh fetch                     nats-server and natsbench, built by go into $PEERS_HOME
nats.sh up N                      a cluster of N on 127.0.0.1, file storage; SYNC=always syncs before the ack (default: every 2 minutes)
nats.sh pids                      of the servers
nats.sh down                      ends it; the data goes too, unless KEEP=1
nats.sh produce  [key=value ...]  mode=async|sync|atomic|fast batch=500 publishers=1 streams=1 size=100 seconds=20; R3 file streams, made anew
nats.sh consume  [key=value ...]  consumers=1 streams=1 msgs=1000000 size=100; ordered consumers over what the last produce left
nats.sh latency  [key=value ...]  rate=10000 seconds=20 size=100: publish to ack; then end to end, one message at a time
nats.sh failover [key=value ...]  trials=7: kill -9 of the stream's leader under a sequential publisher; longest gap between acks
nats.sh idle     [key=value ...]  seconds=20 streams=1: RSS and CPU of each server

PEERS_HOME  cache of binaries       (default $HOME/.cache/quorate-peers)
PEERS_RUN   configs, data, logs     (default: a new folder in /var/tmp if that is this folder's disk, else here); not a tmpfs
NATS_VERSION (default v2.15.2), NATS_PORT (14220: server i on +i, its routes on +100+i)
Needs go. One JSON object a line on stdout. natsbench does what `nats bench js pub|ordered` does.
EOF
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/common.sh"
VERSION=${NATS_VERSION:-v2.15.2}
PORT=${NATS_PORT:-14220}
SERVER=$PEERS_HOME/nats-$VERSION/nats-server
BENCH=$PEERS_HOME/nats-$VERSION/natsbench

fetch() {
  need go "apt-get install golang"
  [ -x "$SERVER" ] || GOBIN=$(dirname "$SERVER") CGO_ENABLED=0 go install "github.com/nats-io/nats-server/v2@$VERSION" >&2
  [ "$BENCH" -nt "$HERE/natsbench/main.go" ] || (cd "$HERE/natsbench" && CGO_ENABLED=0 go build -buildvcs=false -o "$BENCH" .) >&2
}

bench() { become "$BENCH" "$1" -s "$(seq -s, -f "nats://127.0.0.1:%g" $((PORT + 1)) $((PORT + $(cat "$RUN/count"))))" "${@:2}"; }

configure() { # node, nodes
  local i routes=""
  for i in $(seq "$2"); do routes+=",nats-route://127.0.0.1:$((PORT + 100 + i))"; done
  mkdir -p "$RUN/$1"
  cat >"$RUN/$1/server.conf" <<EOF
server_name: "$1"
listen: 127.0.0.1:$((PORT + $1))
jetstream { store_dir: "$RUN/$1/data"${SYNC:+, sync_interval: $SYNC} }
cluster { name: peers, listen: 127.0.0.1:$((PORT + 100 + $1)), routes: [${routes:1}] }
EOF
}

start() { spawn "$1" "$SERVER" -c "$RUN/$1/server.conf"; } # node

up() {
  fetch
  new_run "${1:-3}"
  trap broke ERR INT TERM
  echo "${SYNC:-default}" >"$RUN/sync"
  local i from
  for i in $(seq "$(cat "$RUN/count")"); do configure "$i" "$(cat "$RUN/count")"; done
  from=$(now_ms)
  for i in $(seq "$(cat "$RUN/count")"); do start "$i"; done
  bench make -name start -replicas "$(cat "$RUN/count")"
  json peer=nats what=start nodes="$(cat "$RUN/count")" sync="$(cat "$RUN/sync")" \
    first_ack_s="$(seconds "$from" "$(bench seq -name start -seconds 0.5 | awk '/^ack/ {print $2}')")"
}

load() { # verb, what, tag ... -- flags
  local verb=$1 what=$2 tags=()
  shift 2
  while [ "$1" != -- ]; do tags+=("$1"); shift; done
  shift
  measure --parse json --pids "$(pids)" --tag peer=nats "what=$what" "sync=$(cat "$RUN/sync")" "${tags[@]}" \
    -- "$BENCH" "$verb" -s "$(seq -s, -f "nats://127.0.0.1:%g" $((PORT + 1)) $((PORT + $(cat "$RUN/count"))))" "$@"
}

produce() {
  local mode=async batch=500 publishers=1 streams=1 size=100 seconds=20
  settings "$@"
  bench make -streams "$streams"
  load pub produce mode="$mode" batch="$batch" publishers="$publishers" streams="$streams" size="$size" \
    -- -mode "$mode" -batch "$batch" -clients "$publishers" -streams "$streams" -size "$size" -seconds "$seconds"
}

consume() {
  local consumers=1 streams=1 msgs=1000000 size=100
  settings "$@"
  load sub consume consumers="$consumers" streams="$streams" size="$size" -- -clients "$consumers" -streams "$streams" -msgs "$msgs" -size "$size"
}

latency() {
  local rate=10000 seconds=20 size=100
  settings "$@"
  bench make -name latency
  load lat "latency at $rate/s" -- -name latency -rate "$rate" -seconds "$seconds" -size "$size"
  load e2e end-to-end -- -name latency -seconds "$((seconds / 2))" -size "$size"
}

failover() {
  local trials=7 t victim current
  settings "$@"
  bench make -name failover
  for t in $(seq "$trials"); do
    read -r victim _ <<<"$(bench leader -name failover)"
    bench seq -name failover -seconds 40 >"$RUN/ack" 2>"$RUN/ack.log" &
    local pid=$!
    until grep -q ^ack "$RUN/ack"; do sleep 0.05; done
    sleep 3
    slay "$victim"
    wait $pid
    json peer=nats what=failover sync="$(cat "$RUN/sync")" trial="$t" victim="$victim" \
      gap_s="$(python3 -c 'import json,sys; print(round(json.loads(sys.argv[1])["gap_ms"]/1e3, 3))' "$(tail -1 "$RUN/ack")")"
    start "$victim"
    current=0
    until [ "$current" = $(($(cat "$RUN/count") - 1)) ]; do sleep 0.5; read -r _ current <<<"$(bench leader -name failover)"; done
    sleep 2
  done
}

idle() {
  local seconds=20 streams=1
  settings "$@"
  bench make -name idle -streams "$streams"
  sleep 5
  idle_cost nats "$seconds" "$streams"
}

dispatch fetch up down pids produce consume latency failover idle -- "$@"
