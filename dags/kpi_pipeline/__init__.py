"""The pipeline around the Spark job, and the delivery to DynamoDB: needs neither Airflow nor Spark."""
