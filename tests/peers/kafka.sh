#!/usr/bin/env bash
# Apache Kafka on this machine, as a peer to compare with. See --help.
set -euo pipefail

usage() { cat <<'EOF'
kafka.sh fetch                      jars from Maven into $PEERS_HOME/kafka-VERSION, and the probe compiled
kafka.sh up N                       N combined KRaft brokers, 1 GB heap each, on 127.0.0.1; prints the start time
kafka.sh pids                       of the brokers
kafka.sh down                       ends them; the data goes too, unless KEEP=1
kafka.sh produce  [key=value ...]   ProducerPerformance     topic=bench producers=1 records=5000000 size=100 payload=FILE
                                                            throughput=-1 props="acks=all linger.ms=5 batch.size=65536 buffer.memory=67108864"
                                                            partitions=12 topicprops="" fresh=1 (a new topic for the run) warmup=0 (records left out)
kafka.sh consume  [key=value ...]   ConsumerPerformance     topic=bench consumers=1 records=5000000; each consumer is a group, reads all
kafka.sh latency  [key=value ...]   produce with linger.ms=0 at throughput=10000 for seconds=20, then EndToEndLatency e2e=5000 records
kafka.sh failover [key=value ...]   kind=leader|leader+controller|follower|follower+controller trials=7: whom to kill -9 under
                                    a sequential producer; longest gap between acks
kafka.sh idle     [key=value ...]   seconds=20 partitions=0: RSS and CPU of each broker, after creating a topic of so many partitions
kafka.sh restart  [key=value ...]   kill -9 of a broker; seconds from exec until it is in every ISR of topic=bench again

PEERS_HOME  cache of jars           (default $HOME/.cache/quorate-peers)
PEERS_RUN   configs, data, logs     (default: a new folder in /var/tmp if that is this folder's disk, else here); not a tmpfs
KAFKA_VERSION (default 4.3.1), KAFKA_HEAP (1g), KAFKA_PORT (19090: broker i on +i, controller i on +100+i)
Needs a JDK (17 or later) and mvn. One JSON object a line on stdout. Brokers have Kafka's own defaults, but for
replication factor 3 and min.insync.replicas=2 (less with fewer brokers), and KAFKA_BROKER_PROPS="key=value;key=value".
Fresh brokers are slow until their JIT compiler is done: say `produce records=20000000` two or three times before you compare.
EOF
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$HERE/common.sh"
VERSION=${KAFKA_VERSION:-4.3.1}
PORT=${KAFKA_PORT:-19090}
LIBS=$PEERS_HOME/kafka-$VERSION
CP="$LIBS/*:$LIBS"
unset JAVA_TOOL_OPTIONS
GC="-server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15 -Djava.awt.headless=true"

fetch() {
  need java javac mvn "apt-get install default-jdk-headless maven"
  [ -f "$LIBS/KafkaProbe.class" ] && [ "$LIBS/KafkaProbe.class" -nt "$HERE/KafkaProbe.java" ] && return
  mkdir -p "$LIBS"
  local artifact deps=""
  for artifact in kafka_2.13 kafka-tools kafka-server kafka-clients; do
    deps+="<dependency><groupId>org.apache.kafka</groupId><artifactId>$artifact</artifactId><version>$VERSION</version></dependency>"
  done
  deps+="<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>"
  cat >"$LIBS/pom.xml" <<EOF
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>peers</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>$deps</dependencies></project>
EOF
  cat >"$LIBS/log4j2.properties" <<'EOF'
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = OUT
appender.out.type = Console
appender.out.name = OUT
appender.out.target = SYSTEM_ERR
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1} %m%n
EOF
  mvn -B -ntp -q -f "$LIBS/pom.xml" dependency:copy-dependencies -DoutputDirectory="$LIBS" >&2
  javac -cp "$LIBS/*" -d "$LIBS" "$HERE/KafkaProbe.java"
}

bootstrap() { seq -s, -f "127.0.0.1:%g" $((PORT + 1)) $((PORT + $(cat "$RUN/count")));  }
probe() { become java -XX:TieredStopAtLevel=1 -Xmx256m -cp "$CP" KafkaProbe "$(bootstrap)" "$@"; }
tool() { echo java -Xmx512m $GC -cp "$CP" "org.apache.kafka.tools.$1"; }

configure() { # node, nodes
  local rf=$(($2 < 3 ? $2 : 3)) i voters=""
  for i in $(seq "$2"); do voters+=",$i@127.0.0.1:$((PORT + 100 + i))"; done
  mkdir -p "$RUN/$1"
  cat >"$RUN/$1/server.properties" <<EOF
process.roles=broker,controller
node.id=$1
controller.quorum.voters=${voters:1}
listeners=PLAINTEXT://127.0.0.1:$((PORT + $1)),CONTROLLER://127.0.0.1:$((PORT + 100 + $1))
advertised.listeners=PLAINTEXT://127.0.0.1:$((PORT + $1))
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$RUN/$1/data
default.replication.factor=$rf
min.insync.replicas=$((rf > 1 ? 2 : 1))
offsets.topic.replication.factor=$rf
transaction.state.log.replication.factor=$rf
transaction.state.log.min.isr=$((rf > 1 ? 2 : 1))
share.coordinator.state.topic.replication.factor=$rf
share.coordinator.state.topic.min.isr=$((rf > 1 ? 2 : 1))
$(tr ';' '\n' <<<"${KAFKA_BROKER_PROPS:-}")
EOF
}

start() { # node
  local heap=${KAFKA_HEAP:-1g}
  spawn "$1" java -Xms"$heap" -Xmx"$heap" $GC -cp "$CP" kafka.Kafka "$RUN/$1/server.properties"
}

up() {
  fetch
  new_run "${1:-3}"
  trap broke ERR INT TERM
  local i id from ack
  id=$(java -cp "$CP" org.apache.kafka.tools.StorageTool random-uuid 2>/dev/null || java -cp "$CP" kafka.tools.StorageTool random-uuid 2>/dev/null)
  for i in $(seq "$(cat "$RUN/count")"); do
    configure "$i" "$(cat "$RUN/count")"
    java -XX:TieredStopAtLevel=1 -cp "$CP" kafka.tools.StorageTool format -t "$id" -c "$RUN/$i/server.properties" >"$RUN/$i/format.log" 2>&1
  done
  # The probe runs before the brokers do, so that its own start is not in the figure.
  probe seq start 90 retry.backoff.max.ms=100 reconnect.backoff.max.ms=100 >"$RUN/ack" 2>"$RUN/ack.log" &
  local pid=$!
  sleep 2
  from=$(now_ms)
  for i in $(seq "$(cat "$RUN/count")"); do start "$i"; done
  until grep -q ^ack "$RUN/ack"; do
    kill -0 $pid 2>/dev/null || broke
    sleep 0.05
  done
  ack=$(awk '/^ack/ {print $2}' "$RUN/ack")
  kill $pid 2>/dev/null || true
  wait $pid 2>/dev/null || true
  probe isr start >/dev/null
  json peer=kafka what=start nodes="$(cat "$RUN/count")" first_ack_s="$(seconds "$from" "$ack")"
}

fresh() { # topic, partitions, properties
  probe delete "$1" >/dev/null 2>&1 || true
  probe create "$1" "$2" "$(($(cat "$RUN/count") < 3 ? $(cat "$RUN/count") : 3))" $3 >/dev/null
}

produce() {
  local topic=bench producers=1 records=5000000 size=100 payload="" throughput=-1 partitions=12 topicprops="" fresh=1 warmup=0 tag=produce
  local props="acks=all linger.ms=5 batch.size=65536 buffer.memory=67108864"
  settings "$@"
  if [ "$fresh" = 1 ]; then fresh "$topic" "$partitions" "$topicprops"; fi
  local what=(--record-size "$size")
  if [ -n "$payload" ]; then what=(--payload-file "$payload"); fi
  measure --parse kafka-produce --copies "$producers" --pids "$(pids)" \
    --tag peer=kafka what="$tag" size="$([ -n "$payload" ] && basename "$payload" || echo "$size")" "props=$props" "topicprops=$topicprops" \
    -- $(tool ProducerPerformance) --bootstrap-server "$(bootstrap)" --topic "$topic" --num-records $((records / producers)) \
    --throughput "$throughput" --warmup-records "$warmup" "${what[@]}" --command-property $props
}

consume() {
  local topic=bench consumers=1 records=5000000
  settings "$@"
  measure --parse kafka-consume --copies "$consumers" --pids "$(pids)" --tag peer=kafka what=consume \
    -- $(tool ConsumerPerformance) --bootstrap-server "$(bootstrap)" --topic "$topic" --num-records "$records" \
    --group "g$(now_ms)-{i}" --hide-header --timeout 60000
}

latency() {
  local throughput=10000 seconds=20 e2e=5000 topicprops="" size=100
  settings "$@"
  # The first five seconds are the client JVM's own warm-up, and are left out.
  produce topic=bench-latency throughput="$throughput" records=$((throughput * (seconds + 5))) warmup=$((throughput * 5)) \
    size="$size" topicprops="$topicprops" \
    tag="latency at $throughput/s" props="acks=all linger.ms=0"
  [ "$e2e" = 0 ] && return
  fresh bench-e2e 1 "$topicprops"
  measure --parse kafka-e2e --pids "$(pids)" --tag peer=kafka what=end-to-end "topicprops=$topicprops" \
    -- $(tool EndToEndLatency) "$(bootstrap)" bench-e2e "$e2e" all "$size"
}

failover() {
  local kind=leader trials=7 t i victim controller others gap
  settings "$@"
  for t in $(seq "$trials"); do
    read -r _ controller <<<"$(probe leader start)"
    victim=$controller
    if [[ $kind != *controller ]]; then victim=$((controller % $(cat "$RUN/count") + 1)); fi
    others=$(seq "$(cat "$RUN/count")" | grep -vx "$victim" | paste -sd,)
    if [[ $kind == follower* ]]; then others+=,$victim; else others=$victim,$others; fi
    probe place "failover-$t" "$others" 2>/dev/null
    probe seq "failover-$t" 40 >"$RUN/ack" 2>"$RUN/ack.log" &
    local pid=$!
    until grep -q ^ack "$RUN/ack"; do sleep 0.05; done
    sleep 3
    slay "$victim"
    wait $pid
    json peer=kafka what=failover "kind=$kind" trial="$t" victim="$victim" was_controller="$controller" \
      gap_s="$(python3 -c 'import json,sys; print(round(json.loads(sys.argv[1])["gap_ms"]/1e3, 3))' "$(tail -1 "$RUN/ack")")"
    start "$victim"
    probe isr "failover-$t" >/dev/null
    probe isr start >/dev/null
    probe delete "failover-$t"
  done
}

idle() {
  local seconds=20 partitions=0
  settings "$@"
  if [ "$partitions" -gt 0 ]; then
    json peer=kafka what=create "$(probe create "idle-$partitions" "$partitions" 3)"
    sleep 10
  fi
  idle_cost kafka "$seconds" "$partitions"
}

restart() {
  local topic=bench node=2 from
  settings "$@"
  local mb=$(du -sm "$RUN/$node/data" | cut -f1)
  slay "$node"
  # Out of the ISR first, else the wait below ends at once.
  sleep 15
  from=$(now_ms)
  start "$node"
  json peer=kafka what=restart data_mb="$mb" in_isr_s="$(seconds "$from" "$(probe isr "$topic")")"
}

dispatch fetch up down pids produce consume latency failover idle restart -- "$@"
