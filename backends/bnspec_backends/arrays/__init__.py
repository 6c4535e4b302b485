"""Backends for the arrays of each library: implementations of `bnspec.Backend`."""
