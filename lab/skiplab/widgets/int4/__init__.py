"""The explorer of packed weights: how they lie in memory, and what a warp asks for."""
