"""A report as one HTML page, and what the page is made of: its template, style, script and plots."""
