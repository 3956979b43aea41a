"""The explorer that takes kernels apart; its files as in every explorer's folder, and subject.py: which kernel."""
