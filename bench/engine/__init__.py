"""What the shard engine's speed rests on, one measurement per module.

Each module has `measure(conditions) -> Report`; `runner` runs them and writes the results.
"""
