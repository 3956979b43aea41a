"""The explorer of whole models: where the time of a prompt and of a step goes, and what changes it."""
