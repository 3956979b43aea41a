"""Many queries at once: `plan` holds every choice, `tiled`, `kernel` and `hopper/` do it."""
