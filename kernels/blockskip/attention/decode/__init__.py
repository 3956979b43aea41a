"""Up to 128 last queries of a long cache: `api` holds the contract, `plan` every choice; `tiled` and `kernel` do it."""
