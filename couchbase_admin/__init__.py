"""The installers' processes, and the registry they and the pipeline share."""
