"""The demonstration: real measurements through every process, checked against what was produced."""
