"""The pure core: no clock, randomness, input, output, async or logging."""
