"""Doubles and helpers that only tests and benchmarks use."""
