//! Generated messages to checked domain types, and back.
