"""What crosses a wire: XNAT's REST API, which hub and launcher both call, and what the two say to each other."""
