"""Golden vectors as JSON; the README in this folder explains the schema."""
