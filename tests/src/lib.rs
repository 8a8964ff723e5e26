//! Starts real `quorate` processes for tests, in temporary folders, and ends them.
