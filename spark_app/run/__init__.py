"""What a run carries from step to step, and its result."""
