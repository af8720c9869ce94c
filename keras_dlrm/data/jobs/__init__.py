"""Preprocessing jobs that a kill cannot spoil: stages, staged files, full disks."""
