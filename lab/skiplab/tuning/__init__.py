"""The tiles that a GPU runs prefill fastest with: `candidates` compiles, `tune` times, `winners` keeps the best."""
