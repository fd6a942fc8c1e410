"""Keys: a puncturable tree of file keys for each shard, keyrings that keep it, and the services that wrap keyrings.

docs/keys-v1.md specifies every byte; docs/adr/0010-keys.md says why. Where keyrings lie and when they are punctured is
not decided here.
"""
