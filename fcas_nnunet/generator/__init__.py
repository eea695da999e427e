"""Synthesis: TCDM, MGM and SSV. Never imports nnunetv2."""
