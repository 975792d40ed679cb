"""Provenance of generated videos: the watermark and the signed C2PA manifest."""
