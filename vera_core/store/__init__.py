"""Object stores: one protocol, its S3, in-memory and fault-injecting implementations, the probe and the chained log."""
