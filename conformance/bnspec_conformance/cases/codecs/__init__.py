"""Cases, outcomes and arguments of checks as JSON values, and back."""
