"""The shard-store: models cut into shards, kept as files named by their BLAKE3.

Owns manifests, blobs and the import of local folders. Does not know requests, tensors' meaning or
who runs a model.
"""
