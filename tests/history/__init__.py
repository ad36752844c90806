"""Branches: other questions, other replies, other ends of one tree."""
