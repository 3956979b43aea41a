"""Products of weights in tiles on Hopper's tensor cores, in Gluon.

One warp copies tiles and activations by the copy engine (`copy`); groups of four warps unpack the codes to the operand
that the tensor cores take from registers (`unpack`), multiply and store (`multiply`); `kernel` says who does what,
`share` brings together tiles whose columns several programs share, `plan` chooses all sizes.
"""
