//! Damage to disks: of one node at a time, until it is whole again.
#![expect(clippy::wildcard_enum_match_arm, reason = "it is handed the kinds of damage, and no others")]

use std::time::Duration;

use quorate_proto::ids::NodeId;

use super::Nemesis;
use super::kinds::Kind;
use super::mends::Mend;
use crate::cluster::{Cluster, Crash, Harm};
use crate::env::clock;
use crate::trace::Event;

const MS: Duration = Duration::from_millis(1);

/// How long a disk may take to be mended by the others, once nothing else is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

impl Nemesis {
    /// Damages the disk of a node, while it is down unless sectors rot.
    pub(super) async fn damage(&mut self, cluster: &mut Cluster, kind: Kind, node: NodeId, until: Duration) {
        // More may befall the one that is damaged already.
        let damaged = cluster.damaged();
        let Some(node) = damaged.or_else(|| self.victim(cluster, kind, node)) else { return };
        // Nor is it damaged while another one is lost, or leaves.
        if cluster.is_stranger(node) || !cluster.orders().are_done() {
            return;
        }
        let harm = match kind {
            Kind::LoseVolume => Harm::Volume,
            Kind::LoseMeta => Harm::Meta,
            Kind::LoseTail => Harm::Tail,
            _ => Harm::Rot,
        };
        if harm == Harm::Rot {
            if cluster.damage(node, harm, &[], &mut self.dice) {
                self.mend_at(until, Mend::Heal(node));
            }
            return;
        }
        // A folder that has lost two different things may hold nothing any more that says whose it is.
        if damaged.is_some() {
            return;
        }
        let older = cluster.images(node);
        if harm == Harm::Tail {
            let later = clock::now() + self.dice.time(MS, 2_000 * MS);
            self.wait(cluster, later).await;
        }
        // Power, not the process alone: what lies on the platters is all there is.
        if cluster.is_stranger(node) || !cluster.crash(node, Crash::PowerCut, &mut self.dice).await {
            return;
        }
        cluster.damage(node, harm, &older, &mut self.dice);
        let start = self.draw_start();
        self.mend_at(until, Mend::Start(node, start));
        // That may be past by now, and the node is to see first what became of its disk.
        let healed = until.max(clock::now()) + self.dice.time(100 * MS, 20_000 * MS);
        self.mend_at(healed, Mend::Heal(node));
    }

    /// Who is struck: `node`, or another one if this kind finds nothing there. Many nodes have no sealed volume for long,
    /// and one that is down cannot come back without one.
    fn victim(&mut self, cluster: &Cluster, kind: Kind, node: NodeId) -> Option<NodeId> {
        if !matches!(kind, Kind::Rot | Kind::LoseVolume) {
            return Some(node);
        }
        let fits = |node: &NodeId| (kind == Kind::Rot || cluster.is_up(*node)) && cluster.has_sealed(*node);
        if fits(&node) {
            return Some(node);
        }
        let others = cluster.nodes().into_iter().filter(fits).collect::<Vec<_>>();
        (!others.is_empty()).then(|| others[self.dice.place(others.len())])
    }

    /// Nobody who must make progress may rest on a node that has lost something: waits until that is mended.
    pub(super) async fn until_whole(&mut self, cluster: &mut Cluster) {
        if cluster.damaged().is_none() {
            return;
        }
        cluster.note(Event::Fault("phase: what is damaged is mended by the others".to_owned()));
        cluster.network().mend_all();
        let nodes = cluster.nodes();
        self.make_whole(cluster, &nodes).await;
        let end = clock::now() + PATIENCE;
        while cluster.damaged().is_some() && clock::now() < end {
            self.wait(cluster, clock::now() + 50 * MS).await;
        }
        // Tells of what is not whole by now.
        cluster.until_whole(Duration::ZERO).await;
        // They are struck again.
        self.whole.clear();
    }
}
