"""The landing of device messages in MongoDB."""
