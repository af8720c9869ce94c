"""SavedModels: raw columns in the graph, warm-up, self-check, manifest, publishing by rename."""
