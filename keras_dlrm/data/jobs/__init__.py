"""Preprocessing jobs that can stop at any moment and go on: a job's steps, staged rows, and the files they are in."""
