//! What replicas go by at the end: they follow their topics' settings while they run.

use super::{Observer, parts_of};

impl Observer {
    /// Once everything had the time to arrive, each replica goes by what its topic is set to.
    pub(super) fn look_at_settings(&self) {
        let mut state = self.state();
        for (node, machine) in &mut state.machines {
            let Some(running) = machine.running.clone() else { continue };
            let Some(parts) = parts_of(machine, &running) else { continue };
            for topic in parts.controller.current().topics.values() {
                for partition in topic.partitions.iter().filter(|it| it.replicas.contains(node)) {
                    let goes_by = parts.partitions.replica_of(partition.group).map(|it| it.topic_config());
                    if let Some(goes_by) = goes_by.filter(|goes_by| *goes_by != topic.config) {
                        let what = format!(
                            "replicas converge: node {node} goes by {goes_by:?} in group {} of {}, which is set to {:?}",
                            partition.group, topic.name, topic.config
                        );
                        self.0.history.complain("O-28", what);
                    }
                }
            }
        }
    }
}
