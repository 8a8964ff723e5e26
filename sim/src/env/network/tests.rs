//! What the wires carry, hold back and lose, and that mending ends it.

use std::sync::Mutex;

use futures_util::FutureExt;
use quorate_proto::ids::NodeId;
use quorate_proto::v1::{ClusterStatusRequest, ClusterStatusResponse};

use super::*;
use crate::env::clock;
use crate::env::tasks::Life;

const ONE: Host = Host::Node(NodeId(1));
const TWO: Host = Host::Node(NodeId(2));

/// Answers calls with nothing, and keeps their numbers in the order in which they came.
#[derive(Default)]
struct Echo(Mutex<Vec<u64>>);

impl Service for Echo {
    fn accept(&self, request: Request) -> Vec<BoxFuture<'static, Response>> {
        let Request::Call(number, _) = request else { return Vec::new() };
        self.0.lock().unwrap().push(number);
        let reply = Reply::ClusterStatus(ClusterStatusResponse::default());
        vec![std::future::ready(Response::Reply(number, reply)).boxed()]
    }

    fn takes_peers(&self) -> bool {
        true
    }
}

struct World {
    network: Network,
    callee: Life,
    echo: Arc<Echo>,
    _listener: quorate_node::env::Task,
}

impl World {
    fn new(profile: Profile) -> Self {
        clock::begin();
        let network = Network::new(profile, Dice::new(7), Trace::default());
        let callee = Life::new(TWO, |_, _, said| panic!("{said}"));
        let echo = Arc::<Echo>::default();
        let listener = network.listen(&callee, "node2:7101", echo.clone()).unwrap();
        Self { network, callee, echo, _listener: listener }
    }

    async fn connect(&self) -> Connection {
        self.network.connect(ONE, "node2:7101").await.unwrap()
    }

    fn heard(&self) -> Vec<u64> {
        self.echo.0.lock().unwrap().clone()
    }
}

fn ask(connection: &Connection, number: u64) {
    connection.requests.send(Request::Call(number, Call::ClusterStatus(ClusterStatusRequest::default())));
}

/// The number of the next answer; `None` when the connection is gone.
async fn answer(connection: &mut Connection) -> Option<u64> {
    match connection.responses.next().await? {
        Response::Reply(number, _) => Some(number),
        Response::Peer(_) => panic!("no peer is here"),
    }
}

#[tokio::test(start_paused = true)]
async fn losses_and_delays_stall_and_never_reorder() {
    let world = World::new(Profile {
        loss_per_mille: 300,
        slow_per_mille: 300,
        slow_max: Duration::from_secs(2),
        ..Profile::default()
    });
    let mut connection = world.connect().await;
    for number in 0..50 {
        ask(&connection, number);
    }
    for number in 0..50 {
        assert_eq!(answer(&mut connection).await, Some(number));
    }
    assert!(clock::now() > Duration::from_millis(400), "{:?}", clock::now());
    let struck = world.network.struck();
    assert_eq!((struck["loss"], struck["delay"]), (2, 2), "once per link and run: {struck:?}");
    world.network.mend_all();
    let began = clock::now();
    ask(&connection, 50);
    assert_eq!(answer(&mut connection).await, Some(50));
    assert!(clock::now() - began < Duration::from_millis(30));
}

#[tokio::test(start_paused = true)]
async fn a_cut_holds_frames_back_in_their_order() {
    let world = World::new(Profile::default());
    let mut connection = world.connect().await;
    world.network.cut(ONE, TWO);
    for number in 0..10 {
        ask(&connection, number);
    }
    clock::sleep(Duration::from_secs(5)).await;
    assert!(world.heard().is_empty());
    world.network.mend(ONE, TWO);
    ask(&connection, 10);
    for number in 0..11 {
        assert_eq!(answer(&mut connection).await, Some(number));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_loses_what_is_on_its_way_and_both_ends_see_it() {
    let world = World::new(Profile::default());
    let mut connection = world.connect().await;
    ask(&connection, 0);
    assert_eq!(world.network.reset(TWO, ONE), 1);
    assert_eq!(answer(&mut connection).await, None);
    assert!(world.heard().is_empty());
    let mut connection = world.connect().await;
    ask(&connection, 1);
    assert_eq!(answer(&mut connection).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_request_or_its_reply_alone_is_lost() {
    for (what, kind, heard) in
        [(Lose::Request, "request lost", vec![0]), (Lose::Reply, "reply lost", vec![0, 1])]
    {
        let world = World::new(Profile::default());
        let mut connection = world.connect().await;
        ask(&connection, 0);
        assert_eq!(answer(&mut connection).await, Some(0));
        assert!(world.network.lose(ONE, TWO, what));
        ask(&connection, 1);
        assert_eq!(answer(&mut connection).await, None, "{what:?}");
        assert_eq!(world.heard(), heard, "{what:?}");
        assert_eq!(world.network.struck(), BTreeMap::from([(kind, 1)]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_stands_and_passes_nothing_until_it_is_given_up() {
    let world = World::new(Profile::default());
    let mut connection = world.connect().await;
    assert_eq!(world.network.hollow(ONE, TWO), 1);
    ask(&connection, 0);
    let (number, keep_alive) = (connection.number, Some(Duration::from_secs(3)));
    tokio::select! {
        biased;
        _ = answer(&mut connection) => panic!("something passed"),
        () = world.network.starved(ONE, TWO, number, keep_alive) => {}
    }
    let mut other = world.connect().await;
    ask(&other, 1);
    assert_eq!(answer(&mut other).await, Some(1));
    world.network.mend_all();
    assert_eq!(answer(&mut connection).await, None, "reset at last");
    assert_eq!(world.heard(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_clog_delays_and_a_narrow_link_spaces_out() {
    let world = World::new(Profile::default());
    let mut connection = world.connect().await;
    world.network.clog(ONE, TWO, Duration::from_secs(2));
    ask(&connection, 0);
    assert_eq!(answer(&mut connection).await, Some(0));
    assert!(clock::now() >= Duration::from_secs(2));
    let took = async |connection: &mut Connection| {
        let began = clock::now();
        for number in 1..40 {
            ask(connection, number);
        }
        for number in 1..40 {
            assert_eq!(answer(connection).await, Some(number));
        }
        clock::now() - began
    };
    let quick = took(&mut connection).await;
    world.network.narrow(ONE, TWO, Narrow { frames_max: 2, bytes_per_second: 10_000 });
    let slow = took(&mut connection).await;
    // 39 frames that count a hundred bytes each.
    assert!(slow > Duration::from_millis(380) && slow > quick * 2, "{quick:?}, {slow:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_narrow_link_holds_up_comes_at_once_when_all_is_mended() {
    let world = World::new(Profile::default());
    let mut connection = world.connect().await;
    world.network.narrow(ONE, TWO, Narrow { frames_max: 2, bytes_per_second: 100 });
    for number in 0..40 {
        ask(&connection, number);
    }
    assert_eq!(answer(&mut connection).await, Some(0));
    let mended = clock::now();
    world.network.mend_all();
    for number in 1..40 {
        assert_eq!(answer(&mut connection).await, Some(number));
    }
    assert!(clock::now() - mended < Duration::from_millis(50), "{:?}", clock::now() - mended);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_to_be_connected_over_a_narrow_link() {
    let world = World::new(Profile::default());
    let connection = world.connect().await;
    world.network.narrow(ONE, TWO, Narrow { frames_max: 2, bytes_per_second: 10 });
    for number in 0..40 {
        ask(&connection, number);
    }
    let asked = clock::now();
    assert_eq!(world.network.connect(ONE, "node2:7101").await.err(), Some(Failure::Unreachable));
    assert_eq!(clock::now() - asked, Duration::from_secs(1));
    world.network.mend_all();
    world.connect().await;
    assert!(clock::now() - asked < Duration::from_millis(1_050), "{:?}", clock::now() - asked);
}

#[tokio::test(start_paused = true)]
async fn a_paused_machine_keeps_its_connections_until_they_are_given_up() {
    let world = World::new(Profile::default());
    let mut connection = world.connect().await;
    world.callee.pause();
    world.network.set_paused(TWO, true);
    ask(&connection, 0);
    clock::sleep(Duration::from_secs(10)).await;
    assert!(world.heard().is_empty());
    let mut other = world.connect().await;
    ask(&other, 1);
    world.callee.resume();
    world.network.set_paused(TWO, false);
    assert_eq!(answer(&mut connection).await, Some(0));
    assert_eq!(answer(&mut other).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_request_of_before_comes_again_after_both_ends_have_restarted() {
    let world = World::new(Profile {
        again_per_mille: 1_000,
        again_max: Duration::from_secs(60),
        ..Profile::default()
    });
    let marks = Marks::default();
    world.network.set_marks(marks.clone());
    let connection = world.connect().await;
    for host in [ONE, TWO] {
        world.network.begin_life(host);
    }
    for _ in 0..20 {
        connection.requests.send(Request::Peer(PeerFrame::default()));
    }
    drop(connection);
    for host in [ONE, TWO] {
        world.network.begin_life(host);
    }
    clock::sleep(Duration::from_secs(70)).await;
    assert_eq!(world.network.struck(), BTreeMap::from([("repetition", 1)]));
    assert!(marks.counts()["message-after-both-ends-restarted"] >= 20);
    world.network.mend_all();
}
