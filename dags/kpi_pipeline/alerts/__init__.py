"""Who hears of a failure, and what."""
