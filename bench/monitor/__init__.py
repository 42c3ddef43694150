"""What watching costs: counting on the hit path, and the camera."""
