"""Owns accounts, two-phase transfers, tiers, escrow, pools, signatures.

Does not know models, requests' content.
"""
