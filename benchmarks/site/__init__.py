"""The site that `make docs` builds from docs/: MkDocs calls the hooks here (mkdocs.yml)."""
