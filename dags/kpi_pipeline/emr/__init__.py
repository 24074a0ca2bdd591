"""The Spark job on EMR Serverless."""
