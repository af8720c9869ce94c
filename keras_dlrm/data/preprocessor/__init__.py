"""The preprocessor: vocabularies and dense transforms, from raw columns to a packed batch."""
