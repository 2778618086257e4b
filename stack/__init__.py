"""The local stack: which servers, their jars, their configuration, and how they are run."""
