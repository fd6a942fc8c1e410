"""The tamper-evident audit trail: locked, hash-linked entries, one chain per writer."""
