"""What runs in the hub: log-in, spawner, pages, its database. docs/architecture.md shows the parts."""
