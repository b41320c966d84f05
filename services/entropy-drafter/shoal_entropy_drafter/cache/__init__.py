"""Owns what the semantic cache keeps and how it is found again.

Records with the answers lie in Redis, vectors of the questions in Qdrant; both may be lost, and
neither ever stops a request. Does not know chat requests, which may be kept, nor when two wordings
ask the same: that is `question` and `guard`.
"""
