"""Fixtures of the tests that use real servers."""

from tests.support.dynamodb_fixtures import dynamodb, dynamodb_server, faulty_dynamodb, table_prefix

__all__ = ["dynamodb", "dynamodb_server", "faulty_dynamodb", "table_prefix"]
