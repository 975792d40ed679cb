"""Avatars on disk and on the Hub, and loading them for inference."""
