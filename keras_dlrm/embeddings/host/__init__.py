"""Tables larger than memory: rows and slots in a file, a cache of them on the device; public as `kd.HostTables`."""
