"""The best network of a finished run at work: on new rows here, and exported for use elsewhere."""
