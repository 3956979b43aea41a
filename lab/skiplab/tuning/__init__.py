"""Tuning: the configurations with which a GPU runs our kernels fastest, by measurement, a file for each operation.

`compiling` compiles the candidates, `tune` times them, `winners` keeps the best, and `files` writes them to
`configs/<device>.json`.
"""
