"""Audit: folds of the log beside the product's own, that check what it says, and what was made of it."""
