"""Sources of scans: the phantom, and one module per public data set."""
