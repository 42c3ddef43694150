"""The jobs: what users subclass, the registry of them, and the run of a message."""
