//! What an operator's timeline says of leadership: who leads a group on this node, and why that has changed.

use super::group::{Role, Running};

impl Running {
    /// Tells an operator who leads, and why that has changed, as far as this node can say.
    pub(super) fn tell(&self, before: Role, role: Role) {
        let group = self.id;
        match (before, role) {
            (Role::Follower { leader, .. }, Role::Leader { term, .. }) => {
                let why = if self.handed_in(term).is_some() {
                    "it was handed over"
                } else if self.replacing().is_some() {
                    "its leader's death was proven"
                } else {
                    "it was elected"
                };
                tracing::info!(%group, %term, why, before = ?leader, "leadership gained");
            }
            (Role::Leader { term: led, .. }, Role::Follower { leader, term }) => {
                let why = if term > led { "there is a newer term" } else { "its group has stopped" };
                tracing::info!(%group, %led, %term, why, ?leader, "leadership lost");
            }
            (Role::Follower { .. }, Role::Follower { leader: Some(leader), term }) => {
                tracing::info!(%group, %term, %leader, "leader followed");
            }
            (Role::Follower { .. }, Role::Follower { leader: None, term }) => {
                tracing::info!(%group, %term, "leader not known");
            }
            (Role::Leader { .. }, Role::Leader { term, ready }) => {
                tracing::debug!(%group, %term, ready, "leader's first entry applied");
            }
        }
    }
}
