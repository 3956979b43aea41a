"""What `skiplab tune` measured, by device and operation, and the choices that follow from it.

`attention`, `decode` and `linear` hold what an entry says and which entry a call finds; `files` reads the entries of
`configs/<device>.json`; `choose` looks there first, and says where a choice is from.
"""
