"""Training runs: experiment files, resume, reports, progress, files of a run's folder."""
