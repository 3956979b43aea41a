"""Attention: `api` holds the contract, `plan` every choice, `reference`, `tiled` and `prefill` the implementations."""
