"""Placement and routing on random fleets, against other policies and a bound."""
