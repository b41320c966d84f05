"""What every service shares: settings, logs, errors, RPC, bus, metrics, traces, clock, ids.

Does not know: torch, web frameworks, or any one service.
"""
