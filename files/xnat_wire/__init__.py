"""Code that hub and launcher share: the client for XNAT's REST API, and the calls between hub and launcher."""
