"""What is general about Spark: the session, time zones, small frames."""
