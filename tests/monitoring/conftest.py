"""Fixtures of the tests of monitoring."""

from tests.support.dynamodb_fixtures import dynamodb, dynamodb_server, table_prefix

__all__ = ["dynamodb", "dynamodb_server", "table_prefix"]
