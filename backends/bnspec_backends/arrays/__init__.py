"""The arrays of each library: what `bnspec.Backend` asks for."""
