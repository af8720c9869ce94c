"""The schema: columns, packing of values into batches, hashing, long lists, Criteo's shapes."""
