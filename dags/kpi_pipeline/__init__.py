"""Delivery of exported KPIs to DynamoDB: needs neither Airflow nor Spark."""
