"""Where scans come from: the phantom, and one module per public data set."""
