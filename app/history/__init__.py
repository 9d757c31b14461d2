"""The read model: the log folded into SQL rows, for the API and the console."""
