"""Forgetting users: their rows in the lake's tables, and the files that name them."""
