"""Reading a lake without Spark: its Delta tables by SQL, on disk and in S3."""
