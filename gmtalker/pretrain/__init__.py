"""The generic stages: clips in, trained networks out."""
