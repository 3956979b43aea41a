"""Quantised linear layers: `api` holds the contract, `weight` the layouts, `reference`, `tiled`, `matvec` the work."""
