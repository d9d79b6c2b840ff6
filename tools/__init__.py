"""What keeps the house in order: generated files and locks. No part of the package."""
