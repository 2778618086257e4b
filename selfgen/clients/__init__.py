"""Thin clients of the servers: connect, ask, nothing more."""
