"""The KPI API: figures of DynamoDB over HTTP, as a Lambda function or on one machine. It only reads."""
