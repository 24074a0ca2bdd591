"""The application on a Spark cluster, where driver and executors share nothing but the lake."""
