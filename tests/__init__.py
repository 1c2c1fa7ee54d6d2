"""The tests. Each file guards promises; its test names say which."""
