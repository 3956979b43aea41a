"""The explorer of splits: which program of a decode step reads which keys."""
