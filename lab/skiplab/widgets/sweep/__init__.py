"""The sweep panel: a sweep with buttons; a file for each operation has its form."""
