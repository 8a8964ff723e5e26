#!/usr/bin/env python3
"""rounds.py: the same loads on Quorate, Kafka and NATS, interleaved on this machine, as one table of medians.

All systems stay up; while one is measured the others are frozen (SIGSTOP). In each round every load runs once on every
system that takes part in it: first the page cache is written out (sync, and a wait until Dirty + Writeback are below
64 MB), then a short run is thrown away, for whoever has just woken, then the run that counts. The bare disk is measured
in each round too. Kafka is warmed up first, until three runs of 14 M records in a row lie within 5 % and none is below
600,000/s; winning against a cold one is no win.

Every run is a line of JSON in --out; the table is the median and the lowest and highest of the rounds, with what
Quorate's median is by each other's. Ctrl-C ends the systems and prints the table of what was measured so far.
"""
import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
FLUSH = "topicprops=flush.messages=1"

# A load: what it is told by (the key of a row, and whether more is better), and each side of it: its name, whose, the
# verb and its settings. {records} is --records, {logs} a file of log lines.
LOADS = {
    "produce": (("records_s", True), [
        ("quorate", "quorate", "produce", ["records={records}", "seconds=600"]),
        ("kafka", "kafka", "produce", ["records={records}"]),
        ("kafka, flush, 1 producer", "kafka", "produce", ["records={fewer}", FLUSH]),
        ("kafka, flush, 3 producers", "kafka", "produce", ["records={fewer}", "producers=3", FLUSH]),
        ("nats", "nats", "produce", ["mode=fast", "publishers=3", "streams=12", "batch=500", "seconds=20"]),
    ]),
    "produce-defaults": (("records_s", True), [
        ("quorate", "quorate", "produce", ["records={records}", "seconds=600", "linger=5", "batch=64000"]),
        ("kafka", "kafka", "produce", ["records={fewer}", "props=acks=all"]),
    ]),
    "logs-lz4": (("records_s", True), [
        ("quorate", "quorate", "produce", ["records={records}", "seconds=600", "payload={logs}", "compression=lz4"]),
        ("kafka", "kafka", "produce", ["records={fewer}", "payload={logs}",
                                       "props=acks=all linger.ms=5 batch.size=65536 buffer.memory=67108864 compression.type=lz4"]),
    ]),
    # Of what a produce without figures has left.
    "consume": (("records_s", True), [
        ("quorate", "quorate", "consume", []),
        ("kafka", "kafka", "consume", ["records={records}"]),
    ]),
    "latency-10000": (("p50_ms", False), [
        ("quorate", "quorate", "latency", ["rate=10000"]),
        ("kafka", "kafka", "latency", ["throughput=10000", "e2e=0"]),
        ("kafka, flush", "kafka", "latency", ["throughput=10000", "e2e=0", FLUSH]),
        ("nats", "nats", "latency", ["rate=10000"]),
    ]),
    "latency-50000": (("p50_ms", False), [
        ("quorate", "quorate", "latency", ["rate=50000"]),
        ("kafka", "kafka", "latency", ["throughput=50000", "e2e=0"]),
        ("kafka, flush", "kafka", "latency", ["throughput=50000", "e2e=0", FLUSH]),
    ]),
    "one": (("p50_ms", False), [
        ("quorate", "quorate", "one", []),
        ("kafka, flush", "kafka", "latency", ["throughput=1000", "seconds=1", FLUSH]),
        ("nats", "nats", "produce", ["mode=sync", "seconds=10"]),
    ]),
    "failover": (("gap_s", False), [
        ("quorate", "quorate", "failover", ["trials=10"]),
        ("kafka", "kafka", "failover", ["trials=1"]),
        ("nats", "nats", "failover", ["trials=1"]),
    ]),
}
# What goes before a load on each system.
FILLS = {"consume": {"quorate": ["produce", "records={records}", "seconds=600"], "kafka": ["produce", "records={records}"]}}
SHOWN = ["records_s", "mb_s", "p50_ms", "p99_ms", "receipt_p50_ms", "receipt_p99_ms", "gap_s", "server_us", "client_us", "memory_mb"]


class Peers:
    """The systems that are up, and who of them is awake."""

    def __init__(self, names, out):
        self.names, self.out, self.frozen = names, out, set()

    def ask(self, name, *words):
        env = dict(os.environ, SYNC="always") if name == "nats" else os.environ
        done = subprocess.run([HERE / f"{name}.sh", *words], env=env, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"rounds.py: {name}.sh {' '.join(words)} ended with {done.returncode}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def up(self):
        for name in self.names:
            self.say({"load": "start", "side": name} | self.ask(name, "up", "3")[-1])
            self.freeze(name)

    def down(self):
        for name in self.names:
            self.wake(name)
            self.ask(name, "down")

    def signal(self, name, number):
        done = subprocess.run([HERE / f"{name}.sh", "pids"], stdout=subprocess.PIPE, text=True, check=False)
        for pid in done.stdout.split():
            try:
                os.kill(int(pid), number)
            except ProcessLookupError:
                pass

    def freeze(self, name):
        self.signal(name, signal.SIGSTOP)
        self.frozen.add(name)

    def wake(self, name):
        if name in self.frozen:
            self.signal(name, signal.SIGCONT)
            self.frozen.discard(name)

    def only(self, name):
        """Wakes one and freezes the others; True if it was asleep."""
        was = name in self.frozen
        for other in self.names:
            if other != name and other not in self.frozen:
                self.freeze(other)
        self.wake(name)
        return was

    def say(self, row):
        row["at"] = round(time.time(), 1)
        with open(self.out, "a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)


def settle():
    """Writes the page cache out, so that one run does not pay for another's."""
    os.sync()
    for _ in range(1200):
        with open("/proc/meminfo", encoding="utf-8") as lines:
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        if kilobytes["Dirty"] + kilobytes["Writeback"] < 64 << 10:
            return
        time.sleep(0.1)
    raise SystemExit("rounds.py: the page cache is not written out after two minutes: is something else writing?")


def cost(row):
    """With microseconds of CPU a record."""
    for who in ("server", "client"):
        if row.get("records") and row.get(f"{who}_cpu_s") is not None:
            row[f"{who}_us"] = round(row[f"{who}_cpu_s"] / row["records"] * 1e6, 3)
    return row


def disk(peers, number):
    peers.only(None)
    settle()
    done = subprocess.run([HERE / "disk_limit.py", "--json", "--sizes", "4096", "1048576"], stdout=subprocess.PIPE, text=True, check=True)
    for row in map(json.loads, done.stdout.splitlines()):
        peers.say({"load": f"disk-{row['chunk'] >> 10}k", "side": "disk", "round": number} | row)


def warm(peers, records):
    """Kafka's JIT compiler is done when three runs in a row are alike."""
    peers.only("kafka")
    rates = []
    while len(rates) < 20:
        rates.append(peers.ask("kafka", "produce", f"records={records}")[-1]["records_s"])
        peers.say({"load": "warm-up", "side": "kafka", "records_s": rates[-1]})
        last = rates[-3:]
        if len(last) == 3 and max(last) <= 1.05 * min(last) and (min(last) >= 600_000 or records < 14_000_000):
            return
    raise SystemExit(f"rounds.py: Kafka is not warm after 20 runs: {rates}")


def run(peers, args, number, load):
    fill = lambda words: [word.format(records=args.records, fewer=max(args.records // 4, 1000), logs=args.logs) for word in words]
    sides = [side for side in LOADS[load][1] if side[1] in peers.names]
    # Nobody is always first.
    turn = number % max(len(sides), 1)
    for side, name, verb, settings in sides[turn:] + sides[:turn]:
        woken = peers.only(name)
        if woken and verb != "failover":
            peers.ask(name, "produce", *fill(["records={fewer}"] if name != "nats" else ["seconds=3"]))
        if name in FILLS.get(load, {}):
            peers.ask(name, *fill(FILLS[load][name]))
        settle()
        for row in peers.ask(name, verb, *fill(settings)):
            # Of NATS's and Kafka's latency there is a second line, of one at a time.
            if load == "one" and name == "kafka" and row["what"] != "end-to-end":
                continue
            if load.startswith("latency") and row["what"] == "end-to-end":
                continue
            peers.say({"load": load, "side": side, "round": number} | cost(row))


def words(value):
    """A figure with three digits, or all of its whole part."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(out):
    with open(out, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    groups = {}
    for row in rows:
        groups.setdefault((row["load"], row["side"]), []).append(row)
    lines = ["| load | side | runs | " + " | ".join(SHOWN) + " | Quorate by it |", "| --- " * (len(SHOWN) + 4) + "|"]
    for (load, side), of in groups.items():
        if load in ("warm-up", "start"):
            continue
        cells = []
        for key in SHOWN:
            values = [row[key] for row in of if row.get(key) is not None]
            spread = f" ({words(min(values))}-{words(max(values))})" if len(values) > 1 else ""
            cells.append(words(statistics.median(values)) + spread if values else "")
        ratio = ""
        if load in LOADS and side != "quorate" and (load, "quorate") in groups:
            key, _ = LOADS[load][0]
            ours, theirs = ([row[key] for row in groups[load, who] if row.get(key) is not None] for who in ("quorate", side))
            if ours and theirs and statistics.median(theirs):
                ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}"
        lines.append(f"| {load} | {side} | {len(of)} | " + " | ".join(cells) + f" | {ratio} |")
    starts = [f"{row['side']} {row['first_ack_s']} s" for row in rows if row["load"] == "start"]
    return "\n".join(lines + ["", "From exec on empty folders to the first acknowledged record: " + ", ".join(starts) + "."])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--systems", default="quorate,kafka,nats", help="with commas between")
    ap.add_argument("--loads", default=",".join(LOADS), help="with commas between")
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--records", type=int, default=14_000_000, help="of a long run; Kafka's slower ones take a quarter")
    ap.add_argument("--cold", action="store_true", help="do not warm Kafka up; such figures compare nothing")
    ap.add_argument("--out", default="peers.jsonl", help="every run, appended")
    ap.add_argument("--table", action="store_true", help="only print the table of what --out holds")
    args = ap.parse_args()
    systems, loads = args.systems.split(","), args.loads.split(",")
    for unknown in [load for load in loads if load not in LOADS] + [name for name in systems if not (HERE / f"{name}.sh").exists()]:
        ap.error(f"there is no {unknown}; there are {', '.join(LOADS)}, and quorate, kafka, nats")
    if args.rounds < 1 or args.records < 1000:
        ap.error("at least one round, and 1,000 records")
    if args.table:
        if not os.path.exists(args.out):
            ap.error(f"{args.out} is not there")
        print(table(args.out))
        return
    args.logs = str(pathlib.Path(args.out).resolve().parent / "peers-weblog.txt")
    with open(args.logs, "w", encoding="utf-8") as logs:
        subprocess.run([HERE / "weblog.py", "500000"], stdout=logs, check=True)
    peers = Peers(systems, args.out)
    try:
        peers.up()
        if "kafka" in systems and not args.cold:
            warm(peers, args.records)
        for number in range(args.rounds):
            disk(peers, number)
            for load in loads:
                run(peers, args, number, load)
    except KeyboardInterrupt:
        print("interrupted: the table is of what was measured so far", file=sys.stderr)
    finally:
        peers.down()
        os.remove(args.logs)
        if os.path.exists(args.out):
            print(table(args.out))


if __name__ == "__main__":
    main()
