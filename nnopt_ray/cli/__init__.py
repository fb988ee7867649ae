"""The program `nnopt`: one small file a group of verbs; each parses, calls one function, prints."""
