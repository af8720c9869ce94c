"""SavedModels: signatures, warm-up requests, versions and the check before publishing."""
