"""From a table to a scored model in one call: `kd.train`, and `kd.Run`, what it gives."""
