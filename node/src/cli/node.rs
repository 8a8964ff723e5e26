//! `quorate node`: one server process.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use quorate_node::config::{self, ApiConfig};
use quorate_node::controller::ControllerConfig;
use quorate_node::env::grpc::GrpcTransport;
use quorate_node::env::metrics::ProcessUse;
use quorate_node::env::os::{OsDisk, OsPool};
use quorate_node::env::{Env, Metrics};
use quorate_node::partition::PartitionConfig;
use quorate_node::raft::RaftConfig;
use quorate_node::storage::StoreConfig;
use quorate_node::telemetry::{self, LogFormat};
use quorate_node::wiring::{self, Ended, NodeConfig};
use quorate_proto::ids::NodeId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::{Failure, signals, unasked_servers};

const EXAMPLES: &str = "\
Examples:
  quorate node --id 1 --data ./one
      a node alone, on 127.0.0.1
  quorate node --id 2 --data /var/lib/quorate --insecure \\
      --bootstrap 1=10.0.0.1:7101,2=10.0.0.2:7101,3=10.0.0.3:7101 \\
      --listen-grpc 10.0.0.2:7001 --listen-peer 10.0.0.2:7101 --listen-http 127.0.0.1:8081
      one of three
  quorate node --id 4 --data ./four --join 127.0.0.1:7101 --rack b \\
      --listen-grpc 127.0.0.1:7004 --listen-peer 127.0.0.1:7104 --listen-http 127.0.0.1:8084
      a new node, which `quorate cluster add-node 4` then admits
  quorate node --config node.toml
      with lines such as: id = 1, listen_grpc = \"127.0.0.1:7001\", insecure = true;
      then sections [api] [storage] [raft] [partition] [controller]

A flag wins over the environment (QUORATE_ID, QUORATE_DATA, ...), and that over the file.
In the environment, flags without a value are 1, true, yes or on; 0, false, no or off.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg = unasked_servers())]
pub(crate) struct NodeArgs {
    /// A TOML file with what is not given here.
    #[arg(long, env = "QUORATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who this node is, 1 to 2147483647; required, here or in the environment or the file.
    #[arg(long, env = "QUORATE_ID", value_name = "ID", value_parser = config::parse_node_id)]
    id: Option<NodeId>,
    /// The folder for its data; required likewise.
    #[arg(long, env = "QUORATE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Listen here for clients [default: 127.0.0.1:7001]
    #[arg(long, env = "QUORATE_LISTEN_GRPC", value_name = "HOST:PORT", value_parser = address)]
    listen_grpc: Option<String>,
    /// Listen here for the other nodes [default: its own address in --bootstrap if that is of this machine alone, or
    /// else 127.0.0.1:7101]
    #[arg(long, env = "QUORATE_LISTEN_PEER", value_name = "HOST:PORT", value_parser = address)]
    listen_peer: Option<String>,
    /// Listen here for /healthz, /readyz and /metrics [default: 127.0.0.1:8081]
    #[arg(long, env = "QUORATE_LISTEN_HTTP", value_name = "HOST:PORT", value_parser = address)]
    listen_http: Option<String>,
    /// Its gRPC address as clients see it [default: the one it listens on]
    #[arg(long, env = "QUORATE_ADVERTISE_GRPC", value_name = "HOST:PORT", value_parser = address)]
    advertise_grpc: Option<String>,
    /// Its peer address as the other nodes see it [default: its own in --bootstrap, or else the one it listens on]
    #[arg(long, env = "QUORATE_ADVERTISE_PEER", value_name = "HOST:PORT", value_parser = address)]
    advertise_peer: Option<String>,
    /// Its HTTP address as others see it [default: the one it listens on]
    #[arg(long, env = "QUORATE_ADVERTISE_HTTP", value_name = "HOST:PORT", value_parser = address)]
    advertise_http: Option<String>,
    /// All nodes that form the cluster, this one included, with their peer addresses; none for a node alone.
    #[arg(long, env = "QUORATE_BOOTSTRAP", value_name = "1=HOST:PORT,2=..", value_parser = bootstrap)]
    bootstrap: Option<Bootstrap>,
    /// Peer addresses of some nodes of a cluster that this node asks to be admitted to; not with --bootstrap.
    #[arg(long, env = "QUORATE_JOIN", value_name = "HOST:PORT,..", value_parser = addresses)]
    join: Option<AddressList>,
    /// What this node shares its power and its switch with: replicas are spread over racks first.
    #[arg(long, env = "QUORATE_RACK", value_name = "RACK")]
    rack: Option<String>,
    /// Let listeners leave this machine although nothing is encrypted and nobody is asked who they are.
    #[arg(long, env = "QUORATE_INSECURE", value_parser = on_or_off)]
    insecure: bool,
    /// Create a topic when somebody first produces to it.
    #[arg(long, env = "QUORATE_AUTO_CREATE_TOPICS", value_parser = on_or_off)]
    auto_create_topics: bool,
    /// text or json.
    #[arg(long, env = "QUORATE_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: a level, and module=level for what differs, with commas between, as in
    /// info,raft=debug,storage=trace [default: info]
    #[arg(long, visible_alias = "log-level", env = "QUORATE_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// End when standard input does: whoever started us has died.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

/// The nodes of `--bootstrap`. A type of its own, or clap would take a map for many values.
#[derive(Clone, Debug)]
struct Bootstrap(BTreeMap<NodeId, String>);

fn bootstrap(list: &str) -> Result<Bootstrap, String> {
    config::parse_bootstrap(list).map(Bootstrap)
}

/// The addresses of `--join`.
#[derive(Clone, Debug)]
struct AddressList(Vec<String>);

fn addresses(list: &str) -> Result<AddressList, String> {
    let each = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    each.map(address).collect::<Result<_, _>>().map(AddressList)
}

/// Reads what the environment says of a flag without a value.
fn on_or_off(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "t" | "y" => Ok(true),
        "0" | "false" | "no" | "off" | "f" | "n" => Ok(false),
        _ => Err("must be 1, true, yes or on; or 0, false, no or off".to_owned()),
    }
}

fn address(text: &str) -> Result<String, String> {
    config::check_address(text).map(|()| text.to_owned())
}

/// `node.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NodeFile {
    id: Option<u32>,
    data: Option<PathBuf>,
    listen_grpc: Option<String>,
    listen_peer: Option<String>,
    listen_http: Option<String>,
    advertise_grpc: Option<String>,
    advertise_peer: Option<String>,
    advertise_http: Option<String>,
    bootstrap: Option<String>,
    join: Option<String>,
    rack: Option<String>,
    insecure: bool,
    auto_create_topics: bool,
    log_format: Option<String>,
    log: Option<String>,
    api: ApiConfig,
    storage: StoreConfig,
    raft: RaftConfig,
    partition: PartitionConfig,
    controller: ControllerConfig,
}

/// What the flags, the environment and the file come to.
#[derive(Debug)]
struct Settings {
    node: NodeConfig,
    data: PathBuf,
    /// Listeners that leave this machine.
    open: Vec<String>,
    /// What `--bootstrap` tells the others, though this node listens on this machine alone and was not told where.
    unheard: Option<String>,
    log_format: LogFormat,
    log: Given<String>,
}

/// A value, and whether it stands in the file.
#[derive(Debug)]
struct Given<T> {
    value: T,
    in_file: bool,
}

impl<T> Given<T> {
    /// The flag's or the variable's value, or else the file's, or else the default.
    fn join(flag: Option<T>, file: Option<T>, default: impl FnOnce() -> T) -> Self {
        let in_file = flag.is_none() && file.is_some();
        Self { value: flag.or(file).unwrap_or_else(default), in_file }
    }
}

/// Where mistakes are said to stand. What the command line and the environment alone show to be wrong is wrong usage;
/// what a file says is not.
struct Blame {
    file: Option<PathBuf>,
    /// What the file holds.
    text: String,
}

impl Blame {
    /// A mistake in the file, if there is one.
    fn file(&self, message: impl Display) -> Failure {
        match &self.file {
            Some(path) => Failure::work(format!("{}: {message}", path.display())),
            None => Failure::work(message),
        }
    }

    /// A mistake in the file, in the line of the first key that the message names, if it stands there.
    fn key(&self, message: &str) -> Failure {
        let line = message.split([' ', ',', ':']).find_map(|word| config::line_of(&self.text, word));
        match line {
            Some(line) => self.file(format!("line {line}: {message}")),
            None => self.file(message),
        }
    }

    fn of(&self, in_file: bool, message: String) -> Failure {
        if in_file { self.key(&message) } else { Failure::Usage(message) }
    }
}

/// Runs the node until a signal comes or it stops itself.
pub(crate) async fn run(args: NodeArgs) -> Result<(), Failure> {
    let mut blame = Blame { file: args.config.clone(), text: String::new() };
    if let Some(path) = &args.config {
        blame.text = std::fs::read_to_string(path).map_err(|error| blame.file(error))?;
    }
    let file = config::parse(&blame.text).map_err(|error| blame.file(error))?;
    let exit_with_stdin = args.exit_with_stdin;
    let settings = settings(args, file, &blame)?;
    telemetry::init_log(settings.log_format, &settings.log.value)
        .map_err(|message| blame.of(settings.log.in_file, message))?;
    let node = settings.node.id;
    tracing::info!(%node, version = env!("CARGO_PKG_VERSION"), data = %settings.data.display(), "node starts");
    tracing::debug!(%node, config = ?settings.node, "configuration");
    if let Some(address) = &settings.unheard {
        tracing::warn!(
            %node,
            "the others look for this node at {address}, as --bootstrap says, and it listens to them on {} alone: say \
             --listen-peer, unless something forwards there",
            settings.node.listen_peer
        );
    }
    if !settings.open.is_empty() {
        tracing::warn!(
            %node,
            listeners = settings.open.join(", "),
            "insecure: listeners leave this machine, nothing is encrypted, and whoever reaches them may read and write all"
        );
    }

    let mut signals = signals()?;
    let asked = async move {
        let signalled = std::pin::pin!(signals.wait());
        if exit_with_stdin {
            futures_util::future::select(signalled, std::pin::pin!(stdin_ended())).await;
        } else {
            signalled.await;
        }
    };
    if let Some(open_files_max) = raise_open_files() {
        tracing::info!(%node, open_files_max, "limit of open files");
    }
    let metrics = Metrics::default();
    metrics.measure_process(process_use);
    let base = quorate_proto::env::os();
    let disk = OsDisk::open(&settings.data).map_err(Failure::work)?;
    let env = Env {
        disk: Arc::new(disk),
        transport: Arc::new(GrpcTransport::new(base.clone())),
        pool: Arc::new(OsPool),
        metrics,
        base,
    };
    match Box::pin(wiring::serve(env, settings.node, asked)).await {
        Ok(Ended::Asked) => Ok(()),
        Ok(Ended::Itself(reason)) => {
            let data = settings.data.display();
            Err(Failure::StoppedItself(format!("node {node} stopped itself (data folder {data}): {reason}")))
        }
        Err(error) => Err(Failure::work(error)),
    }
}

/// As many as macOS takes, which refuses its own "unlimited".
const OPEN_FILES: u64 = 10_240;

/// Lets this process open as many files and connections as it may at all: what it is given at first is often no more
/// than 1,024. Gives how many that is, unless there is no limit.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raise = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum });
    let bounded = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if raise(limit.maximum).is_err() && limit.current.is_some_and(|current| current < bounded) {
        // Where the system does not want that either, it stays as it was.
        raise(Some(bounded)).ok();
    }
    getrlimit(Resource::Nofile).current
}

/// What this process has taken of the machine so far.
fn process_use() -> ProcessUse {
    let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    ProcessUse { cpu, memory_bytes: resident_bytes() }
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1_024)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<u64> {
    None
}

/// Ready when standard input has ended.
async fn stdin_ended() {
    let mut bytes = [0; 64];
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

/// Joins flags and file, and checks them.
fn settings(args: NodeArgs, file: NodeFile, blame: &Blame) -> Result<Settings, Failure> {
    let has_file = blame.file.is_some();
    let in_file = |key: &'static str| move |message: String| blame.key(&format!("{key}: {message}"));
    let checked = |key, flag: Option<String>, file: Option<String>| match (flag, file) {
        (Some(flag), _) => Ok(Some(flag)),
        (None, Some(file)) => address(&file).map(Some).map_err(in_file(key)),
        (None, None) => Ok(None),
    };
    let bootstrap_in_file = args.bootstrap.is_none() && file.bootstrap.is_some();
    let bootstrap = match (args.bootstrap, file.bootstrap) {
        (Some(Bootstrap(nodes)), _) => nodes,
        (None, Some(list)) => config::parse_bootstrap(&list).map_err(in_file("bootstrap"))?,
        (None, None) => BTreeMap::new(),
    };
    let join_in_file = args.join.is_none() && file.join.is_some();
    let join = match (args.join, file.join) {
        (Some(AddressList(list)), _) => list,
        (None, Some(list)) => addresses(&list).map_err(in_file("join"))?.0,
        (None, None) => Vec::new(),
    };
    if !bootstrap.is_empty() && !join.is_empty() {
        let message = "the bootstrap list forms a cluster, and the join list asks to be admitted to one: say only one of \
                       --bootstrap and --join";
        return Err(blame.of(bootstrap_in_file || join_in_file, message.to_owned()));
    }
    let id_in_file = args.id.is_none() && file.id.is_some();
    let id = match (args.id, file.id) {
        (Some(id), _) => id,
        (None, Some(id)) => config::parse_node_id(&id.to_string()).map_err(in_file("id"))?,
        (None, None) => {
            let message = "say who this node is, 1 to 2147483647: with --id, with QUORATE_ID, or with id = .. in the \
                           file of --config";
            return Err(blame.of(has_file, message.to_owned()));
        }
    };
    if !bootstrap.is_empty() && !bootstrap.contains_key(&id) {
        let message = format!(
            "the bootstrap list names all nodes that form the cluster, and node {id} is not among them: see --bootstrap"
        );
        return Err(blame.of(bootstrap_in_file || id_in_file, message));
    }
    let listen = |key, flag: Option<String>, file, port: u16| {
        let file = if flag.is_none() { checked(key, None, file)? } else { None };
        Ok::<_, Failure>(Given::join(flag, file, || format!("127.0.0.1:{port}")))
    };
    let in_bootstrap = bootstrap.get(&id).cloned();
    let peer_told = args.listen_peer.is_some() || file.listen_peer.is_some();
    let listen_grpc = listen("listen_grpc", args.listen_grpc, file.listen_grpc, 7001)?;
    let listen_peer = match &in_bootstrap {
        Some(address) if !peer_told && is_loopback(address) => {
            Given { value: address.clone(), in_file: bootstrap_in_file }
        }
        _ => listen("listen_peer", args.listen_peer, file.listen_peer, 7101)?,
    };
    let listen_http = listen("listen_http", args.listen_http, file.listen_http, 8081)?;
    let unheard = in_bootstrap.clone().filter(|address| !peer_told && !is_loopback(address));
    let listeners = [&listen_grpc, &listen_peer, &listen_http];
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        if !are_same(&listeners[one].value, &listeners[other].value) {
            continue;
        }
        let names = ["--listen-grpc", "--listen-peer", "--listen-http"];
        let message = format!(
            "{} and {} are both {}: each needs a port of its own",
            names[one], names[other], listeners[other].value
        );
        return Err(blame.of(listeners[one].in_file || listeners[other].in_file, message));
    }
    let open: Vec<&Given<String>> =
        listeners.into_iter().filter(|listener| !is_loopback(&listener.value)).collect();
    let open_in_file = open.iter().any(|listener| listener.in_file);
    let open: Vec<String> = open.into_iter().map(|listener| listener.value.clone()).collect();
    if !(open.is_empty() || args.insecure || file.insecure) {
        let message = format!(
            "{} can be reached from other machines, and nothing is encrypted yet: listen on 127.0.0.1, or say --insecure \
             if the network around this machine is safe",
            open.join(" and ")
        );
        return Err(blame.of(open_in_file, message));
    }
    let seen_as = |key, flag, file, listen: &Given<String>, name: &str| match checked(key, flag, file)? {
        Some(address) => Ok(address),
        None if is_unspecified(&listen.value) => {
            let message = format!(
                "{} is every address of this machine: say with --advertise-{name} which one others should use",
                listen.value
            );
            Err(blame.of(listen.in_file, message))
        }
        None => Ok(listen.value.clone()),
    };
    let advertise_grpc =
        seen_as("advertise_grpc", args.advertise_grpc, file.advertise_grpc, &listen_grpc, "grpc")?;
    let advertise_http =
        seen_as("advertise_http", args.advertise_http, file.advertise_http, &listen_http, "http")?;
    let advertise_peer = match (args.advertise_peer, file.advertise_peer, in_bootstrap) {
        (None, None, Some(address)) => address,
        (flag, file, _) => seen_as("advertise_peer", flag, file, &listen_peer, "peer")?,
    };
    let log_format = match (args.log_format, file.log_format) {
        (Some(format), _) => format,
        (None, Some(format)) => format.parse().map_err(in_file("log_format"))?,
        (None, None) => LogFormat::default(),
    };
    let node = NodeConfig {
        listen_grpc: Some(listen_grpc.value),
        listen_http: Some(listen_http.value),
        advertise_grpc,
        advertise_peer,
        advertise_http,
        bootstrap,
        join,
        rack: args.rack.or(file.rack).unwrap_or_default(),
        auto_create_topics: args.auto_create_topics || file.auto_create_topics,
        api: file.api,
        storage: file.storage,
        raft: file.raft,
        partition: file.partition,
        controller: file.controller,
        ..NodeConfig::new(id, &listen_peer.value)
    };
    let data = args.data.or(file.data).ok_or_else(|| {
        let message =
            "say where its data lie: with --data, with QUORATE_DATA, or with data = \"..\" in the file of --config";
        blame.of(has_file, message.to_owned())
    })?;
    node.validate().map_err(|error| blame.key(&error.to_string()))?;
    Ok(Settings {
        data,
        node,
        open,
        unheard,
        log_format,
        log: Given::join(args.log, file.log, || "info".to_owned()),
    })
}

fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether two listeners would be in each other's way. Port 0 is a new one for each.
fn are_same(one: &str, other: &str) -> bool {
    let port = |address: &str| address.rsplit_once(':').map_or("0", |(_, port)| port).to_owned();
    let same_host = host(one) == host(other) || is_unspecified(one) || is_unspecified(other);
    same_host && port(one) == port(other) && port(one) != "0"
}

/// Whether nobody outside this machine can reach the address.
fn is_loopback(address: &str) -> bool {
    let host = host(address);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_unspecified(address: &str) -> bool {
    host(address).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn join(line: &str, file: &str) -> Result<Settings, (u8, String)> {
        let line = format!("node --data d {line}");
        let args =
            Line::try_parse_from(line.split_whitespace()).map_err(|error| (2, error.to_string()))?.node;
        let blame = Blame { file: args.config.clone(), text: file.to_owned() };
        let file = config::parse(file).map_err(|error| (1, error.to_string()))?;
        settings(args, file, &blame).map_err(|failure| match failure {
            Failure::Work(error) => (1, error.to_string()),
            Failure::Usage(message) => (2, message),
            other @ (Failure::Said | Failure::StoppedItself(_) | Failure::Interrupted(_)) => {
                panic!("{other:?}")
            }
        })
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = "id = 3\nlisten_grpc = '127.0.0.1:1'\nlisten_http = '127.0.0.1:2'\n[partition]\nqueue_batches_max = 9";
        let seen = join("--id 2 --listen-grpc localhost:5", file).unwrap().node;
        assert_eq!(seen.id, NodeId(2));
        assert_eq!(seen.advertise_grpc, "localhost:5");
        assert_eq!(seen.listen_http.as_deref(), Some("127.0.0.1:2"));
        assert_eq!(seen.listen_peer, "127.0.0.1:7101");
        assert_eq!(seen.partition.queue_batches_max, 9);
    }

    #[test]
    fn nothing_leaves_loopback_unless_told() {
        for open in ["0.0.0.0:7001", "10.0.0.1:7001", "example.org:7001", "[::]:7001"] {
            let (status, message) = join(&format!("--id 1 --listen-grpc {open}"), "").unwrap_err();
            assert_eq!(status, 2);
            assert!(message.starts_with(&format!("{open} can be reached from other machines")), "{message}");
        }
        let open = join("--id 1 --listen-grpc 10.0.0.1:7001 --insecure", "").unwrap();
        assert_eq!(open.open, ["10.0.0.1:7001"]);
        assert!(
            join("--id 1 --listen-peer [::1]:7001 --listen-http localhost:1", "").unwrap().open.is_empty()
        );
        let (_, message) = join("--id 1 --listen-grpc 0.0.0.0:7001 --insecure", "").unwrap_err();
        assert!(message.contains("--advertise-grpc"), "{message}");
    }

    #[test]
    fn a_node_is_one_of_its_bootstrap() {
        let seen = join("--id 2 --bootstrap 1=a:1,2=b:2", "").unwrap().node;
        assert_eq!(seen.advertise_peer, "b:2");
        assert_eq!(join("--id 3 --bootstrap 1=a:1,2=b:2", "").unwrap_err().0, 2);
        assert_eq!(join("--bootstrap 1=a:1,2=b:2", "").unwrap_err().0, 2);
    }

    #[test]
    fn a_node_joins_or_forms_a_cluster_and_not_both() {
        let seen = join("--id 4 --join a:1,b:2 --rack r", "").unwrap().node;
        assert_eq!((seen.join, seen.rack.as_str()), (vec!["a:1".to_owned(), "b:2".to_owned()], "r"));
        let seen = join("--id 4", "join = 'a:1'\nrack = 's'").unwrap().node;
        assert_eq!((seen.join, seen.rack.as_str()), (vec!["a:1".to_owned()], "s"));
        let (status, message) = join("--id 1 --join a:1 --bootstrap 1=a:1", "").unwrap_err();
        assert!(status == 2 && message.contains("only one of --bootstrap and --join"), "{message}");
        assert_eq!(join("--id 1 --join a:1", "bootstrap = '1=a:1'").unwrap_err().0, 1);
        assert_eq!(join("--id 4 --join nowhere", "").unwrap_err().0, 2);
    }

    #[test]
    fn peers_are_awaited_where_bootstrap_says() {
        let seen = join("--id 2 --bootstrap 1=127.0.0.1:7701,2=127.0.0.1:7702", "").unwrap();
        assert_eq!((seen.node.listen_peer.as_str(), &seen.unheard), ("127.0.0.1:7702", &None));
        let told = join("--id 1 --bootstrap 1=localhost:1 --listen-peer 127.0.0.1:5", "").unwrap();
        assert_eq!((told.node.listen_peer.as_str(), &told.unheard), ("127.0.0.1:5", &None));
        let elsewhere = join("--id 2 --bootstrap 1=a:1,2=b:2", "").unwrap();
        assert_eq!(elsewhere.node.listen_peer, "127.0.0.1:7101");
        assert_eq!(elsewhere.unheard.as_deref(), Some("b:2"));
    }

    #[test]
    fn each_listener_has_a_port_of_its_own() {
        let (status, message) =
            join("--id 1 --listen-grpc 127.0.0.1:5 --listen-peer 127.0.0.1:5", "").unwrap_err();
        assert_eq!(
            (status, message.as_str()),
            (2, "--listen-grpc and --listen-peer are both 127.0.0.1:5: each needs a port of its own")
        );
        // A default is in the way as well; and what the file says is no mistake of the command line.
        assert_eq!(join("--id 1 --listen-grpc 127.0.0.1:8081", "").unwrap_err().0, 2);
        assert_eq!(join("--id 1 --listen-grpc 127.0.0.1:5", "listen_http = '127.0.0.1:5'").unwrap_err().0, 1);
        assert!(join("--id 1 --listen-grpc 127.0.0.1:0 --listen-peer 127.0.0.1:0", "").is_ok());
        assert!(join("--id 1 --listen-grpc 127.0.0.1:5 --listen-peer 127.0.0.2:5", "").is_ok());
        assert!(are_same("0.0.0.0:5", "10.0.0.1:5"));
    }

    #[test]
    fn mistakes_are_named() {
        let (status, message) = join("--id 1", "listen_grcp = 'x'").unwrap_err();
        assert_eq!(
            (status, message.as_str()),
            (1, "line 1: unknown key \"listen_grcp\", did you mean \"listen_grpc\"?")
        );
        let (status, message) = join("--id 1 --lisen-grpc 127.0.0.1:1", "").unwrap_err();
        assert_eq!(status, 2);
        assert!(message.contains("--listen-grpc"), "{message}");
        assert_eq!(join("--id 0", "").unwrap_err().0, 2);
    }

    #[test]
    fn the_readme_names_every_key_of_the_file() {
        let readme = include_str!("../../../README.md");
        let file = NodeFile::default();
        let sections = [
            ("api", serde_json::to_value(file.api)),
            ("storage", serde_json::to_value(file.storage)),
            ("raft", serde_json::to_value(file.raft)),
            ("partition", serde_json::to_value(file.partition)),
            ("controller", serde_json::to_value(file.controller)),
        ];
        for (name, section) in sections {
            let keys = readme.split_once(&format!("- `[{name}]`")).expect(name).1;
            let keys = keys.split("\n- `[").next().unwrap().split("\n\n").next().unwrap();
            for key in section.unwrap().as_object().unwrap().keys() {
                assert!(keys.contains(&format!("`{key}`")), "README.md: [{name}] lacks {key}");
            }
        }
    }

    #[test]
    fn mistakes_of_the_file_are_its_own() {
        let file = "--config f/node.toml";
        for (line, text, said) in [
            (
                "--id 1",
                "listen_grpc = 'nowhere'",
                "f/node.toml: line 1: listen_grpc: \"nowhere\" is not host:port",
            ),
            ("", "\nid = 0", "f/node.toml: line 2: id: "),
            ("", "", "f/node.toml: say who this node is"),
            ("--id 1", "bootstrap = '2=a:1'", "f/node.toml: line 1: the bootstrap list"),
            ("--bootstrap 2=a:1", "id = 1", "f/node.toml: the bootstrap list"),
            ("--id 1", "listen_http = '10.0.0.1:1'", "f/node.toml: 10.0.0.1:1 can be reached"),
            (
                "--id 1",
                "listen_http = '0.0.0.0:1'\ninsecure = true",
                "f/node.toml: 0.0.0.0:1 is every address",
            ),
            ("--id 1", "log_format = 'xml'", "f/node.toml: line 1: log_format: "),
            ("--id 1", "[api]\nstream_requests_max = 0", "f/node.toml: line 2: api.stream_requests_max "),
        ] {
            let (status, message) = join(&format!("{file} {line}"), text).unwrap_err();
            assert_eq!(status, 1, "{message}");
            assert!(message.starts_with(said), "{message}");
        }
        // What the command line shows alone stays wrong usage, whatever the file holds.
        let (status, _) = join(&format!("{file} --id 1 --listen-grpc 10.0.0.1:1"), "").unwrap_err();
        assert_eq!(status, 2);
        assert!(join(&format!("{file} --id 1"), "log = 'debug'").unwrap().log.in_file);
        let (status, message) = join("", "").unwrap_err();
        assert!(status == 2 && message.contains("QUORATE_ID"), "{message}");
    }
}
