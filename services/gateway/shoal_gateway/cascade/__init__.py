"""The cascade: the drafter answers what it is sure of, the heavyweight the rest.

Owns the cascade's name, who answers, and whose tokens leave when. Does not know how a draft is
judged, nor what is kept of answers: the entropy-drafter does.
"""
