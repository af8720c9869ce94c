"""Helpers that tests of several folders share: logs, exported models, runtimes, interpreters, processes."""
