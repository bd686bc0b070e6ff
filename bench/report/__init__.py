"""Everything that a person looks at: HTML, terminal tables, files, the local server."""
