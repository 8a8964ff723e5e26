//! Beats: nodes tell each other what they lead, and so that they live; and what follows from a proven death.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_proto::ids::{GroupId, NodeId, Term};
use quorate_proto::v1::{self, peer_reply, peer_request};

use super::{Inner, Leads};
use crate::env::transport::{Lane, LinkEvent};
use crate::env::{Env, Mark, Moment, Point};
use crate::raft::election;
use crate::raft::liveness::Death;
use crate::raft::peers::{Who, leads_from_wire, leads_to_wire, quiet_to_wire};
use crate::raft::quiet::Said;
use crate::raft::types::node_to_raft;

/// News of what a node leads waits so long for further news: where many groups find their leaders at once, each beat
/// tells of all of them.
const SOON: Duration = Duration::from_millis(5);

impl Inner {
    pub(in crate::raft) fn heard(self: &Arc<Self>, who: Who) {
        let (death, lived) = {
            let mut liveness = self.liveness();
            (liveness.heard(who.node, who.incarnation, self.env.now()), liveness.take_lived(who.node))
        };
        if lived {
            self.env.reached(Mark::TakenForDeadAndLived);
        }
        self.died(death, "another incarnation");
    }

    pub(super) fn link(self: &Arc<Self>, node: NodeId, event: LinkEvent) {
        let mut death = self.liveness().link(node, event);
        if event == LinkEvent::Reset && self.env.perturb(Point::ResetTakenForDeath) {
            death = self.liveness().link(node, LinkEvent::Refused);
        }
        self.died(death, "reset, then refused");
    }

    /// Each group that the dead node led looks for another leader.
    fn died(self: &Arc<Self>, death: Option<Death>, proof: &'static str) {
        let Some(Death(dead)) = death else { return };
        self.env.reached(Mark::PeerProvenDead);
        tracing::info!(peer = %dead, proof, "peer died");
        self.quiet_died(dead);
        if self.liveness().forget_leader(dead) {
            self.changed();
        }
        for group in self.running() {
            let vote = group.vote();
            if vote.committed && vote.leader_id.voted_for == node_to_raft(dead) {
                group.0.scope.start(election::replace(group.downgrade(), vote, dead, self.config.clone()));
            }
        }
    }

    /// `node` has beaten, or answered a beat: it leads these groups, or what is known of it if none are given.
    pub(in crate::raft) fn beat(
        &self,
        node: NodeId,
        leads: Option<&BTreeMap<GroupId, Term>>,
        (unfit, knows): (bool, u64),
    ) {
        let news = {
            let mut liveness = self.liveness();
            liveness.said(node, unfit, knows);
            leads.is_some_and(|leads| liveness.beat(node, leads))
        };
        if news {
            self.changed();
        }
    }

    /// What is said of `leads`, which this node leads, to one who knows what comes to this digest; and a digest of what
    /// is known of that one.
    pub(in crate::raft) fn told_of_leads(
        &self,
        leads: &Leads,
        to: NodeId,
        knows: Option<u64>,
    ) -> (Vec<v1::Leadership>, bool, u64) {
        let liveness = self.liveness();
        let known =
            knows.map_or_else(|| liveness.is_known_to(to, leads.digest), |knows| knows == leads.digest);
        (if known { Vec::new() } else { leads_to_wire(&leads.terms) }, known, liveness.known_of(to))
    }

    /// What makes the answer to a peer's beat stand for a beat of this node: the digest of what is quiet, if there is no
    /// more to say of it. `relies`: the peer takes such answers for beats.
    pub(in crate::raft) fn stand_in(&self, peer: NodeId, relies: bool) -> Option<u64> {
        // One of the two must beat.
        if peer > self.me {
            return None;
        }
        let digest = self.ledger.lock().brief(peer);
        let mut pairs = self.pairs();
        let digest = digest.filter(|_| pairs.may_stand(peer));
        pairs.answered(peer, relies && digest.is_some(), self.env.now());
        digest
    }

    /// A peer has answered a beat; the digest is its [`Inner::stand_in`].
    fn stood_in(&self, peer: NodeId, digest: Option<u64>) {
        let stands = digest.is_some_and(|digest| {
            let said = Said { digest, ..Said::default() };
            !self.quiet_told(peer, &said).differs
        });
        self.pairs().heard(peer, stands, self.env.now());
    }

    /// Whether this node takes a peer's answers for beats: no more once they are late, long before the peer is missed. Not
    /// where beats are so rare that the peer would be missed before it beats itself.
    pub(in crate::raft) fn relies_on(&self, peer: NodeId) -> bool {
        if self.config.beat_ms * 4 > self.config.election_timeout_ms_max {
            return false;
        }
        let fresh = self.env.now() - Duration::from_millis(self.config.beat_ms) * 2;
        peer > self.me && self.pairs().relies_on(peer, fresh)
    }

    /// Whether the beat to a peer that is due may be left out: it relies on answers, and has had one; and none is needed for
    /// a connection to stand, whose end would prove its death.
    fn is_spared(&self, peer: NodeId) -> bool {
        if peer > self.me || self.liveness().is_cut(peer) || self.ledger.lock().brief(peer).is_none() {
            return false;
        }
        // The two do not beat at the same time, nor quite in time.
        let fresh = self.env.now() - Duration::from_millis(self.config.beat_ms) * 3 / 2;
        self.pairs().spares(peer, fresh)
    }

    pub(in crate::raft) fn heard_since(&self, node: NodeId, since: Moment) -> bool {
        self.liveness().heard_since(node, since)
    }
}

/// Says to each peer what this node leads, and so that it lives; and hears the same from it.
pub(super) async fn run(env: Env, node: Weak<Inner>) {
    let mut in_flight = FuturesUnordered::new();
    let mut news = false;
    loop {
        let (next, changed) = {
            let Some(node) = node.upgrade() else { return };
            node.pairs().came_round();
            let silent = Duration::from_millis(node.config.election_timeout_ms_max) * 2;
            if node.liveness().expire(env.now() - silent, node.me) {
                node.changed();
            }
            // Before that, nobody would listen.
            if node.peers.identities().cluster().is_some() {
                let leads = match env.perturb(Point::BeatWithoutLeads) {
                    true => Arc::default(),
                    false => node.leads(),
                };
                for peer in node.peers.nodes() {
                    // News are told at once, whatever the last answer said.
                    if !env.perturb(Point::BeatSkipped) && (news || !node.is_spared(peer)) {
                        let said = node.quiet_said(peer);
                        in_flight.push(beat(&node, peer, &leads, said));
                    }
                }
            }
            (node.next_tick(Duration::from_millis(node.config.beat_ms)), node.beat_now.clone())
        };
        let mut pause = env.clock.sleep_until(next);
        news = false;
        loop {
            tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                () = &mut pause => break,
                () = changed.notified(), if !news => {
                    (pause, news) = (env.clock.sleep_until(next.min(env.now() + SOON)), true);
                }
            }
        }
    }
}

/// One beat. Sent now; the future takes the answer.
fn beat(
    node: &Arc<Inner>,
    peer: NodeId,
    leads: &Leads,
    said: Said,
) -> impl Future<Output = ()> + Send + use<> {
    let (leads, leads_known, knows) = node.told_of_leads(leads, peer, None);
    let (quiet, unfit, health) = (Some(quiet_to_wire(&said)), node.is_unfit(), Some(node.health().to_wire()));
    let relies = node.relies_on(peer);
    let beat = v1::NodeBeat { leads, quiet, unfit, leads_known, knows, relies, health };
    let body = peer_request::Body::Beat(beat);
    let timeout = Duration::from_millis(node.config.election_timeout_ms_min);
    let asked = node.peers.ask(peer, Lane::Urgent, body, timeout);
    let node = Arc::downgrade(node);
    async move {
        let reply = match asked.await {
            Ok((_, peer_reply::Body::Beat(reply))) => Some(reply),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%peer, %error, "beat was not answered");
                None
            }
        };
        let Some(node) = node.upgrade() else { return };
        node.quiet_answered(peer, &said, reply.as_ref().and_then(|reply| reply.quiet.as_ref()));
        if let Some(reply) = &reply {
            node.stood_in(peer, reply.quiet_digest);
        }
        if let Some(reply) = reply
            && let Ok(leads) = leads_from_wire(&reply.leads)
        {
            let leads = (!reply.leads_known).then_some(&leads);
            node.beat(peer, leads, (reply.unfit, reply.knows));
            node.told(peer, reply.health.as_ref());
        }
    }
}
