"""Responses that outlive their request: stored, chained, answered in the background.

Owns their records and event logs in Redis and the tasks that answer without a client. Does not
know HTTP, nor how an answer is made.
"""
