"""The thinking of the project: mounts, XNAT's answers, log-in and spawning. docs/architecture.md shows the parts."""
