"""Owns identity, invites, discovery, gossip, sealed tunnels between fleets, trust.

Does not know layers, the rules of money.
"""
