"""Files on disk: atomic writing, ownership markers, locks, checksums, YAML and JSON, memory maps."""
