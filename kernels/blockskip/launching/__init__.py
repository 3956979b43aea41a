"""From a planned call to kernels that run: tensors as arguments, compiled kernels found, repeated calls recognised."""
