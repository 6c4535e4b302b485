"""Programs on a pipe as subjects (docs/protocol.md), and Python subjects in processes of their own."""
