"""The launcher, which alone has Docker's socket, XNAT's service account and the mount policy. docs/architecture.md."""
