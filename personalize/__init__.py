"""From a person's upload to an avatar."""
