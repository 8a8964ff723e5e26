//! Record batches, Kafka's format v2.
