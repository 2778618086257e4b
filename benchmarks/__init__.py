"""Benchmarks against peers, and failure tests: one module each; `selfgen bench` and `selfgen chaos` run them."""
