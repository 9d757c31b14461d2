"""The only network code: each client translates foreign errors once."""
