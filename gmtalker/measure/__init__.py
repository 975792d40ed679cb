"""Measuring: avatars, generic stages, speed and memory, the watermark."""
