"""What a GPU runs our kernels the soonest with, by measurement: a file for each operation says what is tried.

`compiling` compiles the candidates, `tune` times them, `winners` keeps the best, and `files` writes them to
`configs/<device>.json`.
"""
