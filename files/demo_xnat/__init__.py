"""A small stand-in for an XNAT archive with the JupyterHub plugin, for demos and tests, not for real data."""
