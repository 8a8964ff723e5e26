# Sourced by kafka.sh, nats.sh and quorate.sh: a run folder, its servers, and how to measure them.
PEERS_HOME=${PEERS_HOME:-$HOME/.cache/quorate-peers}
NAME=$(basename "$0" .sh)
CURRENT=$PEERS_HOME/$NAME.current # names the run folder between `up` and `down`
RUN=$(cat "$CURRENT" 2>/dev/null || true)
mkdir -p "$PEERS_HOME"
export PYTHONDONTWRITEBYTECODE=1
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # probes; servers are disowned

need() { # program ..., what installs them
  local program
  for program in "${@:1:$#-1}"; do
    command -v "$program" >/dev/null || { echo "$NAME.sh: $program is not installed: ${*: -1}" >&2; exit 1; }
  done
}

now_ms() { date +%s%3N; }
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", (b - a) / 1000 }'; }
measure() { "$HERE/measure.py" "$@"; }

json() { # key=value ... {...}: a value that reads as JSON stays so, an object is merged
  python3 - "$@" <<'EOF'
import json, sys
def value(v):
    try: return json.loads(v)
    except ValueError: return v
row = {}
for arg in sys.argv[1:]:
    row |= json.loads(arg) if arg.startswith("{") else {arg.split("=", 1)[0]: value(arg.split("=", 1)[1])}
print(json.dumps(row))
EOF
}

# Runs a command; in a subshell it becomes the command, so that killing a job kills what it runs.
become() { if [ "$BASHPID" != $$ ]; then exec "$@"; fi; "$@"; }

settings() { # sets the caller's locals from key=value words
  local word
  for word in "$@"; do
    [[ $word == [a-z]*=* ]] || { echo "$NAME.sh: not key=value: $word" >&2; exit 2; }
    printf -v "${word%%=*}" %s "${word#*=}"
  done
}

new_run() { # nodes
  [ -z "$RUN" ] || [ ! -d "$RUN" ] || { echo "$NAME.sh: already up in $RUN; say down first" >&2; exit 1; }
  if [ -n "${PEERS_RUN:-}" ]; then
    RUN=$PEERS_RUN/$NAME
    mkdir -p "$RUN"
  else # the disk of the folder we stand in, which is the repository's
    local base=/var/tmp
    [ "$(stat -c %d $base)" = "$(stat -c %d .)" ] || base=$PWD
    RUN=$(mktemp -d "$base/peers-$NAME.XXXXXX")
  fi
  [ "$(stat -f -c %T "$RUN")" != tmpfs ] || { echo "$NAME.sh: $RUN is a tmpfs; set PEERS_RUN" >&2; exit 1; }
  echo "$RUN" >"$CURRENT"
  echo "$1" >"$RUN/count"
}

spawn() { # node, command: in a session of its own, so that it outlives this script; `down` ends it
  local node=$1
  shift
  setsid "$@" </dev/null >>"$RUN/$node/log" 2>&1 &
  echo $! >"$RUN/$node/pid"
  disown
}

pids() { cat "$RUN"/*/pid | paste -sd' '; }

slay() { # node: kill -9, and wait until it is gone
  local pid
  pid=$(cat "$RUN/$1/pid")
  kill -9 "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
}

broke() { # a failed start: what the servers said last
  tail -qn 3 "$RUN"/*/log >&2 || true
  down
  exit 1
}

down() {
  [ -n "$RUN" ] && [ -d "$RUN" ] || return 0
  local pid
  for pid in $(pids 2>/dev/null); do kill -9 "$pid" 2>/dev/null || true; done
  for pid in $(pids 2>/dev/null); do while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done; done
  rm -f "$CURRENT"
  [ "${KEEP:-0}" = 1 ] || rm -rf "$RUN"
}

idle_cost() { # peer, seconds, partitions: RSS and CPU of each server
  PYTHONPATH=$HERE python3 - "$@" $(pids) <<'EOF'
import json, sys, time
from measure import cpu_seconds, rss_mb
peer, seconds, partitions, pids = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
before = [cpu_seconds([p]) for p in pids]
time.sleep(seconds)
print(json.dumps({"peer": peer, "what": "idle", "partitions": partitions, "rss_mb": [rss_mb(p) for p in pids],
                  "cpu_percent": [round((cpu_seconds([p]) - b) / seconds * 100, 2) for p, b in zip(pids, before)]}))
EOF
}

dispatch() { # verbs -- arguments
  local verbs=""
  while [ "$1" != -- ]; do verbs+=" $1"; shift; done
  shift
  case " $verbs " in
    *" ${1:-none} "*)
      case $1 in fetch | up | down) ;; *) [ -d "${RUN:-/none}" ] || { echo "$NAME.sh: not up" >&2; exit 1; } ;; esac
      "$@"
      ;;
    *) usage; [[ ${1:-} == --help || ${1:-} == -h ]] || exit 2 ;;
  esac
}
