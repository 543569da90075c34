"""What the article shows, made and measured again: `python -m reproduce.figures`, `python -m reproduce.evaluate`."""
