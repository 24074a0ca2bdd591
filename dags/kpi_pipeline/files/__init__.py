"""Input files in the bucket: arrivals, claims, archive, what became of them."""
