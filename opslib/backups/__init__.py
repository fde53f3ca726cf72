"""Backups of the database: taken, stored, proven, and recovered from."""
