"""Run folders that are kept at a URL: worked on in a folder of this machine, and sent whole file by whole file."""
