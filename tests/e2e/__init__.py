"""Whole runs of the DAG: real Airflow, real Spark jobs, AWS over HTTP."""
