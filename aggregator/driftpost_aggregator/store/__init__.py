"""The aggregator's database: tables, connection, migrations and the few queries that several rooms share."""
