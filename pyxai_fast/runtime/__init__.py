"""How work is run: chunks, memory, memory format, progress and what it cost. Knows no method."""
