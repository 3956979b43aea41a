"""Products of packed weights compiled by numba, for a few rows on a CPU; everything here but this file needs numba."""
