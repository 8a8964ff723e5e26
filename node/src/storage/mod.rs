//! All groups' logs on one disk, in redb. Knows groups, indexes and bytes; must not know topics, elections or Raft.
