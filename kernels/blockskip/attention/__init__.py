"""Attention: `api` holds the contract; `route` chooses between `prefill/` and `decode/`, which do not meet."""
