"""FCaS for nnU-Net: confidence-aware synthetic cardiac CTA (arXiv 2503.09560)."""

__version__ = "0.1.0"
