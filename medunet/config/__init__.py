"""The typed YAML: schema, reading, rules."""
