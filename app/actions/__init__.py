"""What the steps do: one file a kind, ``prepare`` reads and ``apply`` acts."""
