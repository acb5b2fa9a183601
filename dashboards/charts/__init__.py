"""Charts as SVG, drawn on the server: they print, follow light and dark, and need no script to be read."""
