"""The site over published models: pages, JSON and files, live or as files."""
