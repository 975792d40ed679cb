"""Train an avatar from one person's video clips."""
