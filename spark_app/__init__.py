"""Spark application: listens in CSV files become Delta tables of daily and hourly KPIs."""

__version__ = "0.1.0"
