"""Getting a retrain request to whoever retrains: at least once, under one id, with patience."""
