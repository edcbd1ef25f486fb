"""Signals: curves over depth whose peaks may be boundaries."""
