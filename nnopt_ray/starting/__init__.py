"""`nnopt init`: looks at data and writes a page to start from; see start.py."""
