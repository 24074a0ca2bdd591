"""Where the lake lies: its tables, its lock, files on a disk or in S3."""
