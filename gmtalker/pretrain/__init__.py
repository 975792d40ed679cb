"""Training of the generic, person-independent networks."""
