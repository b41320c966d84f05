"""Pure translation between public chat APIs and ChatTask and its events."""
