"""What can be proved of a model before it ships."""
