"""One run: its parameters, its folder, its files with their hashes, and the numbers of its profile. Imports no other package."""
