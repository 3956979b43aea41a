"""The explorer that steps through a kernel's programs; its files as in every explorer's folder."""
