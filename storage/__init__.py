"""The run on disk: paths, Zarr arrays, the ledger, tables and queries."""
