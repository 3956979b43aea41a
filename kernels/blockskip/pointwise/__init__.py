"""What stands between a decoder's products: norms, rotary embeddings and gates, each several steps in one launch."""
