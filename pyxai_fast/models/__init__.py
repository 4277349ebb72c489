"""What is explained: models, their outputs and targets, and where they come from."""
