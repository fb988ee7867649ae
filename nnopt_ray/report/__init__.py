"""ROOM 6: one HTML file of a run. See write.py for the door, sections.py for what is in it."""
