"""The JSON of the API, as people read it at /docs: a module for each resource."""
