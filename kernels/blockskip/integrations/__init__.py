"""Blockskip inside other libraries, by its public names alone. Each imports its library when it is used, not before."""
