"""Preprocessing jobs that can stop at any moment and go on: stages, staging, a full disk."""
