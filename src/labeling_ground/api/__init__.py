"""The way in: parse, ask the service, answer."""
