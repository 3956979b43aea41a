"""The explorer of masks: which tiles they leave, and what that saves."""
