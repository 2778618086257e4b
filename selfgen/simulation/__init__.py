"""Messages to test and show the system with: measured, simulated, live."""
