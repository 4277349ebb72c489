"""Models of paths: what makes paths whose attributions are faithful, or simple, and how to ask."""
