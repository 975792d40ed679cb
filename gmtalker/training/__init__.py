"""Training loops: for networks with a `loss` method, and for the head generator."""
