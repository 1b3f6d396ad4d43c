"""A cluster on one machine, parts of which are killed while a sped-up day is played on it."""
