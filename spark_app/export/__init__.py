"""What DynamoDB is to hold, as files."""
