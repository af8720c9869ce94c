"""What every layer uses: checks of arguments, lazy imports, tables and bars, worker counts."""
