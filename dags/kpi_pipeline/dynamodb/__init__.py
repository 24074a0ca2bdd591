"""Reading and writing DynamoDB tables: items, difference, pace, lease."""
