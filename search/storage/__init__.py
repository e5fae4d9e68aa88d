"""The storage of a study: its ledger in SQLite, PostgreSQL or memory, and its checkpoints in folders or object stores."""
