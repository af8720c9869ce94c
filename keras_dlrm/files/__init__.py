"""Files that are whole or absent, that say whose they are, and that are checked when they are read."""
