"""The command line: one file per noun, everything imported lazily."""
