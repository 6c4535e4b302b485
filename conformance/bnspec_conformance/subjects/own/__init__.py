"""bnspec itself as subjects: its backends, compiled, nested, in a module of a framework, and on ranks."""
