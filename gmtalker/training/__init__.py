"""The training loops: of any network that owns its loss, and of the head generator."""
