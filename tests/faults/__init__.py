"""Faults from outside: the real application and the real writer are killed, lose replies, and run two at once."""
