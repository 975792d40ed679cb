"""What says that a video was made: the watermark and the signed credentials."""
