"""HTTP only: routes, server-sent events, keys and errors on the wire."""
