"""The wire between device and aggregator: topics, messages, the MQTT link and the outbox."""
