"""What a path is and whether it is healthy: one module per kind of thing, `path` picks one."""
