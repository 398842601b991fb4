"""The code that runs in the hub: log-in, spawner, pages and database. docs/architecture.md shows the parts."""
