"""Preprocessing jobs that can stop at any moment and continue: a job's steps, staged rows, and the files they are in."""
