"""Late interaction over compressed token vectors. Its parts are imported by name."""
