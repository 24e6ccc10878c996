"""Plumbing that every Fleetfoot package needs: errors, the console, hashed files, the version."""

__version__ = "0.1.0"
