"""nnU-Net: data sets, plans, confidence-aware trainers. Never imports the generator."""
