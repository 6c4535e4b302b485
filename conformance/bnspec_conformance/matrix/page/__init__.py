"""The matrix as one HTML page that is opened as a file: clauses against subjects, and the reason behind every sign."""
