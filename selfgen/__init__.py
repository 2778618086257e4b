"""Energy self-generation, from device to dashboard: the shared core."""
