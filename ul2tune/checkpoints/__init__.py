"""Saving and restoring: fingerprinted, atomic, never silently wrong."""
