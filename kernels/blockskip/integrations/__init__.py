"""Blockskip inside other libraries, by its public names alone. Each needs its library, which it imports when it is used."""
