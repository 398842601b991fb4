"""A small stand-in for an XNAT archive with the JupyterHub plugin: for trying out and for tests, not for data."""
