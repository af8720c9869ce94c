"""The preprocessor: dense transforms, vocabularies, bad rows, CSV dialects, growth by new days."""
