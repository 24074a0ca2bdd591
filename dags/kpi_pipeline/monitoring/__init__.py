"""What a run did in figures: for CloudWatch, for Prometheus, and to see what is unusual."""
