"""The Flink jobs of the requirement: wind in near real time, panels and light sensors by the hour."""
