"""Looks a machine over before, or after, something goes wrong: each check says what it found and how to mend it."""
