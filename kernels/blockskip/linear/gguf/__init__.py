"""Weights from GGUF: blocks.py the formats, header.py what a file says of its tensors, file.py the tensors."""
