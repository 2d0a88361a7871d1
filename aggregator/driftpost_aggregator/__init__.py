"""The fleet side: ingest, merging, triage, incidents, retrain requests and the dashboard."""
