"""Reading the database for pages and API: every query bounded by a LIMIT or by an index range."""
