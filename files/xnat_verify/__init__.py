"""The smoke test of a site: from "Start Jupyter" in XNAT to a file in a notebook, and back."""
