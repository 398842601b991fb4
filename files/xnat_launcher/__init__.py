"""The launcher: it alone holds Docker's socket, XNAT's service account and the mount policy. docs/architecture.md."""
