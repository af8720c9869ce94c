"""Schema of a click log: its columns, how they are packed into batches, and how ids are hashed."""
