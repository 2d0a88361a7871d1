"""The dashboard and the JSON API: what the aggregator's database says, for people and for programs."""
