"""Who may ask, how often and how much. Knows nothing of HTTP's library or of any dialect."""
